"""`preceptor trace TARGET:POSITION`: where the target of one token came from.

    student token <- expert answer <- feedback <- the run of the executor that gave it

Reads the database and the blobs directly when nothing is running, or asks a gateway.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.tree import Tree

from preceptor_clients.contract.errors import PreceptorError
from preceptor_clients.contract.schemas import FeedbackItem, Trace, TraceSource
from preceptor_clients.http.clients import GatewayClient
from preceptor_services.kit.array_blobs import ArrayBlobs
from preceptor_services.kit.blobs import LocalBlobs
from preceptor_services.kit.settings import find_settings, load_settings, read_secret
from preceptor_services.provenance.trace import trace
from preceptor_services.store.database import Database
from preceptor_services.store.provenance.runs import find_run

_SHOWN_ENTRIES = 5

Spell = Callable[[int], str]


def trace_target(
    target: Annotated[str, typer.Argument(metavar="TARGET:POSITION", help="A token of a target.")],
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder of a run, in or below its deployment's; else here.")
    ] = None,
    database: Annotated[str | None, typer.Option(help="URL of a database; wants --blobs.")] = None,
    blobs: Annotated[Path | None, typer.Option(help="Folder of the blobs.")] = None,
    url: Annotated[str | None, typer.Option(help="A running gateway; wants --key-file.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="File with a key of that gateway.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder with tokenizer.json; else the run's own.")
    ] = None,
) -> None:
    """Prints where the target of one token came from."""
    target_id, _, position = target.rpartition(":")
    if not target_id or not position.isdecimal():
        raise typer.BadParameter(f"{target!r} is not TARGET:POSITION")
    try:
        if url is not None and key_file is not None:
            found, model = asyncio.run(_ask(url, read_secret(key_file), target_id, int(position)))
        else:
            place = _place(run_dir or Path(), database, blobs)
            found, model = asyncio.run(_read(*place, target_id, int(position)))
    except (PreceptorError, OSError, ValueError) as error:
        typer.echo(f"preceptor trace: {error}", err=True)
        raise typer.Exit(1) from None
    Console().print(draw(found, _speller(tokenizer or model)))


def _place(run_dir: Path, database: str | None, blobs: Path | None) -> tuple[str, Path]:
    """Database and blobs: as given, else as the run's own settings say."""
    if database is not None and blobs is not None:
        return database, blobs
    # The environment may name the database of something else that runs here.
    settings = load_settings(find_settings(run_dir), env={})
    return settings.gateway.database, settings.gateway.blobs


async def _ask(url: str, key: str, target_id: str, position: int) -> tuple[Trace, None]:
    async with GatewayClient(url, key) as gateway:
        return await gateway.trace(target_id, position), None


async def _read(
    database_url: str, blobs: Path, target_id: str, position: int
) -> tuple[Trace, Path | None]:
    """The trace, and the folder of the student where the run's record names it."""
    database = Database.open(database_url)
    try:
        found = await trace(database, ArrayBlobs(LocalBlobs(blobs)), target_id, position)
        async with database.read() as conn:
            record = await find_run(conn, found.run)
    finally:
        await database.aclose()
    model = None if record is None else record["config"].get("model")
    return found, Path(model) if isinstance(model, str) else None


def _speller(folder: Path | None) -> Spell:
    """Token text where a tokenizer is given and its library is there; else ids."""
    file = None if folder is None else folder / "tokenizer.json"
    if file is None or not file.is_file() or importlib.util.find_spec("tokenizers") is None:
        return str
    # One thread is plenty, and the library warns about forks otherwise.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    library: Any = importlib.import_module("tokenizers")
    tokenizer = library.Tokenizer.from_file(str(file))
    return lambda token: f"{tokenizer.decode([token], skip_special_tokens=False)!r} ({token})"


def draw(found: Trace, spell: Spell = str) -> Tree:
    """The trace as a tree, the student's token at its root."""
    root = Tree(
        f"[bold]student token {_plain(spell(found.token_id))}[/] at position {found.position}: "
        f"log-prob {_number(found.student_logprob)}, {'its own' if found.owned else 'not its own'}"
    )
    root.add(
        f"rollout {found.rollout_id} of problem {found.problem_id}, run {found.run} "
        f"{found.lineage}/{found.step}, weights {found.student_weights}"
    )
    if found.consumed_by:
        root.add(
            f"consumed by step {', '.join(found.consumed_by)}: cost {_number(found.cost)}, "
            f"credit {_number(found.advantage)}"
        )
    for source in found.sources:
        _draw_source(root, source, spell)
    return root


def _draw_source(root: Tree, source: TraceSource, spell: Spell) -> None:
    asked = "" if source.inclusion is None else f", asked with chance {source.inclusion:.3g}"
    branch = root.add(
        f"[bold]<- expert {source.expert}[/] version {source.expert_version}, weights "
        f"{source.weights or 'unversioned'}, {source.kind}, share {source.weight:.3g}{asked} "
        f"(answer {source.answer_id})"
    )
    best = ", ".join(
        f"{_plain(spell(token))} {probability:.4f}"
        for token, probability in source.entries[:_SHOWN_ENTRIES]
    )
    branch.add(f"says {best or 'nothing'}; tail {_number(source.tail)}")
    branch.add(f"context {source.context_hash or '-'}, template {source.template_version or '-'}")
    for item in source.feedback:
        _draw_item(branch, item)


def _draw_item(branch: Tree, item: FeedbackItem) -> None:
    score = "" if item.score is None else f", score {item.score:g}"
    leaf = branch.add(f"[bold]<- feedback {item.id}[/]: {item.kind}{score}")
    if item.text:
        leaf.add(_plain(item.text))
    run = item.details.get("answer_id")
    leaf.add(
        f"[bold]<- {item.source}[/] version {item.version}"
        + (f", run {run}" if run else "")
        + "".join(
            f", {_plain(f'{name} {value}')}"
            for name, value in item.details.items()
            if name != "answer_id"
        )
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _plain(text: str) -> str:
    """Text of others, in which a bracket is no markup."""
    return text.replace("[", r"\[")
