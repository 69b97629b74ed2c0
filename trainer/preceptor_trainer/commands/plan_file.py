"""`preceptor plan run.toml`: memory and disk that a run will take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from preceptor_trainer.commands.room import check_room, plan_of, services_here, show
from preceptor_trainer.commands.run_file import refused_plainly
from preceptor_trainer.runfile.building import build
from preceptor_trainer.runfile.reading import read_run_file


def plan_command(
    file: Annotated[Path, typer.Argument(help="The run's TOML file.")],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Replaces a key of the file; the value is TOML or a bare word.",
        ),
    ] = None,
) -> None:
    """Shows what a run will take of memory and disk, part by part, before anything starts.

    The exit status is 1 where the machine has less.
    """
    with refused_plainly():
        run_file = read_run_file(file, set_ or [])
        name = run_file.run.name or file.stem
        run_dir = file.parent / run_file.run.folder / name
        built = build(run_file, file.resolve().parent, name=name, run_dir=run_dir)
        plan = plan_of(built.config, run_dir, services_here(run_file, built))
    show(plan, Console())
    check_room(plan, refuse=True)
