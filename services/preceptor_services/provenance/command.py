"""`preceptor trace TARGET:POSITION` or `ROLLOUT:POSITION`: the sources of one token.

    student token <- expert answer <- feedback <- the run of the executor that gave it
    student token <- credit <- judgements of the attempt and scores of its group

The second is of a rollout without a target. Reads the database and the blobs directly when no
gateway is running, or sends requests to one.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console

from preceptor_clients.contract.errors import NotFound, PreceptorError
from preceptor_clients.contract.listings import RunDetails
from preceptor_clients.contract.schemas import Trace
from preceptor_clients.http.gateway import GatewayClient
from preceptor_services.kit.settings import read_secret
from preceptor_services.provenance.drawing import Speak, draw
from preceptor_services.provenance.listings import describe_run
from preceptor_services.provenance.place import (
    Blobs,
    DatabaseUrl,
    KeyFile,
    RunDir,
    Url,
    opened,
    place_of,
)
from preceptor_services.provenance.trace import trace, trace_rollout

Traces = Callable[[str, int], Awaitable[Trace]]
"""From an id and a position to a trace."""


def trace_target(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET:POSITION|ROLLOUT:POSITION", help="A token of a target or of a rollout."
        ),
    ],
    run_dir: RunDir = None,
    database: DatabaseUrl = None,
    blobs: Blobs = None,
    url: Url = None,
    key_file: KeyFile = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Folder with tokenizer.json; default: the run's model folder."),
    ] = None,
) -> None:
    """Prints the sources of one token, through the target of its rollout where there is one."""
    name, _, position = target.rpartition(":")
    if not name or not position.isdecimal():
        raise typer.BadParameter(f"{target!r} is not TARGET:POSITION or ROLLOUT:POSITION")
    try:
        if url is not None and key_file is not None:
            found, run = asyncio.run(_ask(url, read_secret(key_file), name, int(position)))
        else:
            place = place_of(run_dir or Path(), database, blobs)
            found, run = asyncio.run(_read(place, name, int(position)))
    except (PreceptorError, OSError, ValueError) as error:
        typer.echo(f"preceptor trace: {error}", err=True)
        raise typer.Exit(1) from None
    Console().print(draw(found, _speller(tokenizer or _model(run))))


async def _ask(url: str, key: str, name: str, position: int) -> tuple[Trace, RunDetails]:
    async with GatewayClient(url, key) as gateway:
        found = await either(name, position, gateway.trace, gateway.trace_rollout)
        return found, await gateway.run_details(found.run)


async def _read(
    place: tuple[str, Path], name: str, position: int
) -> tuple[Trace, RunDetails | None]:
    async with opened(place) as opened_place:
        of_target, of_rollout = (partial(one, *opened_place) for one in (trace, trace_rollout))
        found = await either(name, position, of_target, of_rollout)
        try:
            return found, await describe_run(opened_place[0], found.run)
        except NotFound:
            return found, None


async def either(name: str, position: int, of_target: Traces, of_rollout: Traces) -> Trace:
    """The trace of the target of this name, else of the rollout.

    Raises:
        NotFound: neither is on record.
    """
    try:
        return await of_target(name, position)
    except NotFound as error:
        if _field(error) != "target":
            raise
    try:
        return await of_rollout(name, position)
    except NotFound as error:
        if _field(error) == "path":
            raise NotFound(
                f"no target {name!r}; the gateway is of an older release, which traces targets "
                "alone: upgrade it, or use --run-dir"
            ) from error
        if _field(error) != "rollout":
            raise
        raise NotFound(
            f"no target and no rollout {name!r} is on record; `preceptor rollouts list` and "
            "`preceptor targets list` print ids"
        ) from error


def _field(error: PreceptorError) -> str | None:
    return error.errors[0].field if error.errors else None


def _model(run: RunDetails | None) -> Path | None:
    """The folder of the student, if the run's record names it."""
    model = None if run is None else run.config.get("model")
    return Path(model) if isinstance(model, str) else None


def _speller(folder: Path | None) -> Speak | None:
    """The function that decodes tokens, if a tokenizer and its library are available."""
    file = None if folder is None else folder / "tokenizer.json"
    if file is None or not file.is_file() or importlib.util.find_spec("tokenizers") is None:
        return None
    # One thread is enough, and the library warns about forks otherwise.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    library: Any = importlib.import_module("tokenizers")
    tokenizer = library.Tokenizer.from_file(str(file))

    def spell(ids: Sequence[int]) -> str:
        return cast("str", tokenizer.decode(list(ids), skip_special_tokens=False))

    return spell
