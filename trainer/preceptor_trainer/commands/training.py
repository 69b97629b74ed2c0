"""What every command that trains does: runs the trainer, says what went wrong, shows the result."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from preceptor_clients.cli.main import read_key
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.kit.logs import log_if_asked
from preceptor_clients.kit.tracing import start_tracing
from preceptor_trainer.collect.failed_judgements import SourcesFail
from preceptor_trainer.collect.prompts import NoPromptFits
from preceptor_trainer.commands.ending import ends_when_asked
from preceptor_trainer.commands.going_on import Planned, Start, kept_by
from preceptor_trainer.deployment.failures import said_plainly
from preceptor_trainer.evaluation.held_out import NotGraded
from preceptor_trainer.learner.group import RankEnded, is_launched
from preceptor_trainer.loop import Trainer
from preceptor_trainer.report import REPORT_FILE, terminal_summary
from preceptor_trainer.report.terminal import trace_pointer
from preceptor_trainer.run.collecting import AttemptsFailed
from preceptor_trainer.run.publishing import AnotherGateway, VersionsLost
from preceptor_trainer.run.watching.progress import Progress


def trainer_key(key_file: Path) -> str:
    """The key in a file.

    Raises:
        typer.BadParameter: the file is empty.
    """
    try:
        return read_key(key_file)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--key-file") from error


async def train(planned: Planned, run_dir: Path, url: str, key: str) -> dict[str, Any]:
    """Runs the trainer; returns the summary."""
    log_if_asked()
    start_tracing("trainer")
    run_dir.mkdir(parents=True, exist_ok=True)
    config = planned.config
    if is_launched():
        config = replace(config, ranks=int(os.environ["WORLD_SIZE"]))
    async with GatewayClient(url, key) as gateway:
        with Progress() as progress:
            trainer = Trainer(config, run_dir, gateway, progress, may_grow=planned.is_extended)
            with ends_when_asked():
                return await trainer.run()


def said_of(start: Start, key_file: Path | None = None) -> AbstractContextManager[None]:
    """Ends the command plainly where something went wrong, with what to do next."""
    return said_plainly(
        lambda: kept_by(start.run_dir),
        start.to_continue(),
        key_file=key_file,
        also=(
            *(AnotherGateway, AttemptsFailed, NoPromptFits, NotGraded, RankEnded, SourcesFail),
            VersionsLost,
        ),
    )


def show(summary: dict[str, Any], start: Start, console: Console) -> None:
    """Prints the result."""
    report = start.run_dir / REPORT_FILE
    if report.exists():
        console.print(terminal_summary(summary, report), soft_wrap=True)
    else:
        console.print(f"{start.run_dir}: {summary['steps']} steps", soft_wrap=True)
        for line in trace_pointer(summary.get("trace_target"), start.run_dir):
            console.print(line, soft_wrap=True)


def beside(run_dir: Path) -> Path:
    """The same folder name with the next free number."""
    base, _, last = run_dir.name.rpartition("-")
    stem, number = (base, int(last)) if base and last.isdecimal() else (run_dir.name, 1)
    while (folder := run_dir.with_name(f"{stem}-{number + 1}")).exists():
        number += 1
    return folder
