"""`preceptor trace TARGET:POSITION`: the sources of the target of one token.

    student token <- expert answer <- feedback <- the run of the executor that gave it

Reads the database and the blobs directly when no gateway is running, or sends requests to one.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
from collections.abc import Sequence
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
from preceptor_services.provenance.trace import trace


def trace_target(
    target: Annotated[str, typer.Argument(metavar="TARGET:POSITION", help="A token of a target.")],
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
    """Prints the sources of the target of one token."""
    target_id, _, position = target.rpartition(":")
    if not target_id or not position.isdecimal():
        raise typer.BadParameter(f"{target!r} is not TARGET:POSITION")
    try:
        if url is not None and key_file is not None:
            found, run = asyncio.run(_ask(url, read_secret(key_file), target_id, int(position)))
        else:
            place = place_of(run_dir or Path(), database, blobs)
            found, run = asyncio.run(_read(place, target_id, int(position)))
    except (PreceptorError, OSError, ValueError) as error:
        typer.echo(f"preceptor trace: {error}", err=True)
        raise typer.Exit(1) from None
    Console().print(draw(found, _speller(tokenizer or _model(run))))


async def _ask(url: str, key: str, target: str, position: int) -> tuple[Trace, RunDetails]:
    async with GatewayClient(url, key) as gateway:
        found = await gateway.trace(target, position)
        return found, await gateway.run_details(found.run)


async def _read(
    place: tuple[str, Path], target: str, position: int
) -> tuple[Trace, RunDetails | None]:
    async with opened(place) as (database, array_blobs):
        found = await trace(database, array_blobs, target, position)
        try:
            return found, await describe_run(database, found.run)
        except NotFound:
            return found, None


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
