"""`preceptor runs | rollouts | targets list`: lists the records, to find ids.

Reads the database and the blobs directly when no gateway is running, or sends requests to one.
Steps are counted from 1 in tables and in JSON, as in all output for people, and from 0 in ids.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from pydantic import BaseModel
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from preceptor_clients.contract.errors import NotFound, PreceptorError
from preceptor_clients.contract.listings import RolloutPlace, RunPlace, TargetPlace
from preceptor_clients.http.gateway import GatewayClient
from preceptor_services.kit.settings import read_secret
from preceptor_services.provenance.listings import list_rollouts, list_runs, list_targets
from preceptor_services.provenance.place import (
    Blobs,
    DatabaseUrl,
    KeyFile,
    RunDir,
    Url,
    opened,
    place_of,
)

runs_app: Final = typer.Typer(help="Runs on record.", no_args_is_help=True)
rollouts_app: Final = typer.Typer(help="Rollouts on record.", no_args_is_help=True)
targets_app: Final = typer.Typer(help="Targets on record.", no_args_is_help=True)

Run = Annotated[str | None, typer.Option(help="Name of the run; default: the newest run.")]
Step = Annotated[int | None, typer.Option(min=1, help="Show only this step, counted from 1.")]
Solved = Annotated[
    bool | None, typer.Option("--solved/--failed", help="Show only attempts with this judgement.")
]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of rows.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
_WIDEST: Final = 1_000
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Sends requests to the given gateway, else reads the database directly."""

    run_dir: Path | None
    database: str | None
    blobs: Path | None
    url: str | None
    key_file: Path | None

    async def runs(self, limit: int) -> Sequence[RunPlace]:
        if self.url is not None and self.key_file is not None:
            async with GatewayClient(self.url, read_secret(self.key_file)) as gateway:
                return await gateway.runs(limit)
        async with opened(self._place()) as (database, _):
            return (await list_runs(database, "", limit)).runs

    async def rollouts(self, run: str | None, **filters: Any) -> Sequence[RolloutPlace]:
        """Rollouts of a run."""
        name = run or await self._newest()
        if self.url is not None and self.key_file is not None:
            async with GatewayClient(self.url, read_secret(self.key_file)) as gateway:
                return await gateway.rollouts(name, **filters)
        async with opened(self._place()) as (database, array_blobs):
            page = await list_rollouts(database, array_blobs, name, after="", **filters)
            return page.rollouts

    async def targets(self, run: str | None, **filters: Any) -> Sequence[TargetPlace]:
        """Targets of a run."""
        name = run or await self._newest()
        if self.url is not None and self.key_file is not None:
            async with GatewayClient(self.url, read_secret(self.key_file)) as gateway:
                return await gateway.targets(name, **filters)
        async with opened(self._place()) as (database, _):
            return (await list_targets(database, name, after="", **filters)).targets

    async def _newest(self) -> str:
        found = await self.runs(1)
        if not found:
            raise NotFound("no run is on record", field="run")
        return found[0].run

    def _place(self) -> tuple[str, Path]:
        return place_of(self.run_dir or Path(), self.database, self.blobs)


@runs_app.command("list")
def runs_command(
    limit: Limit = 20,
    as_json: AsJson = False,
    run_dir: RunDir = None,
    database: DatabaseUrl = None,
    blobs: Blobs = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Lists the runs, the newest first."""
    reader = Reader(run_dir=run_dir, database=database, blobs=blobs, url=url, key_file=key_file)
    found = _asked(lambda: reader.runs(limit))
    _print(
        found,
        as_json,
        {
            "run": lambda row: row.run,
            "begun": lambda row: f"{datetime.fromtimestamp(row.created_at):%Y-%m-%d %H:%M}",
            "seed": lambda row: str(row.seed),
            "steps": lambda row: str(row.steps),
            "starts": lambda row: str(row.lineages),
            "rollouts": lambda row: str(row.rollouts),
            "targets": lambda row: str(row.targets),
        },
    )


@rollouts_app.command("list")
def rollouts_command(
    run: Run = None,
    step: Step = None,
    solved: Solved = None,
    limit: Limit = 20,
    as_json: AsJson = False,
    run_dir: RunDir = None,
    database: DatabaseUrl = None,
    blobs: Blobs = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Lists rollouts of a run by step; `preceptor trace ROLLOUT:POSITION` shows a token of one."""
    reader = Reader(run_dir=run_dir, database=database, blobs=blobs, url=url, key_file=key_file)
    found = _asked(lambda: reader.rollouts(run, step=_index(step), solved=solved, limit=limit))
    _print(
        found,
        as_json,
        {
            "rollout": lambda row: row.id,
            "step": lambda row: str(row.step + 1),
            "problem": lambda row: row.problem_id,
            "score": lambda row: _score(row.score),
            "judged": lambda row: _judged(row.solved) + _withdrawn(row),
            "target": lambda row: row.target_id or "–",
            "response": lambda row: _one_line(row.response_text),
        },
    )


@targets_app.command("list")
def targets_command(
    run: Run = None,
    step: Step = None,
    solved: Solved = None,
    limit: Limit = 20,
    as_json: AsJson = False,
    run_dir: RunDir = None,
    database: DatabaseUrl = None,
    blobs: Blobs = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Lists targets of a run; `preceptor trace TARGET:POSITION` shows the sources of one."""
    reader = Reader(run_dir=run_dir, database=database, blobs=blobs, url=url, key_file=key_file)
    found = _asked(lambda: reader.targets(run, step=_index(step), solved=solved, limit=limit))
    _print(
        found,
        as_json,
        {
            "target": lambda row: row.id,
            "positions": lambda row: f"0 to {row.num_tokens - 1}",
            "step": lambda row: str(row.step + 1),
            "rollout": lambda row: row.rollout_id,
            "problem": lambda row: row.problem_id,
            "score": lambda row: _score(row.score),
            "judged": lambda row: _judged(row.solved),
        },
    )


def _asked(question: Callable[[], Awaitable[Sequence[_T]]]) -> Sequence[_T]:
    async def ask() -> Sequence[_T]:
        return await question()

    try:
        return asyncio.run(ask())
    except (PreceptorError, OSError, ValueError) as error:
        typer.echo(f"preceptor: {error}", err=True)
        raise typer.Exit(1) from None


def _print(rows: Sequence[Any], as_json: bool, columns: dict[str, Callable[[Any], str]]) -> None:
    if as_json:
        for row in rows:
            typer.echo(json.dumps(_for_people(row), ensure_ascii=False))
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell(row)) for cell in columns.values()))
    # The table ignores the width of the terminal, so that ids are not cut or wrapped.
    Console(width=_WIDEST).print(table if rows else "nothing is on record")


def _for_people(row: BaseModel) -> dict[str, Any]:
    values = row.model_dump(mode="json")
    if "step" in values:
        values["step"] += 1
    return values


def _index(step: int | None) -> int | None:
    return None if step is None else step - 1


def _score(score: float | None) -> str:
    return "–" if score is None else f"{score:g}"


def _judged(solved: bool | None) -> str:
    return "–" if solved is None else "solved" if solved else "failed"


def _withdrawn(row: RolloutPlace) -> str:
    ended = [f"{i.state}: {i.state_reason}" for i in row.feedback if i.state != "standing"]
    return f" ({_one_line(', '.join(ended))})" if ended else ""


def _one_line(text: str) -> str:
    line = text.replace("\n", "↵")
    return line if len(line) <= 60 else f"{line[:59]}…"
