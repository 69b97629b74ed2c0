"""The trainer's commands.

`preceptor train`, for a deployment that runs, and `preceptor quickstart`, which starts its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractContextManager
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from preceptor_clients.cli.main import read_key
from preceptor_clients.cli.options import typed_options
from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.collect.prompts import NoPromptFits
from preceptor_trainer.commands.going_on import (
    Planned,
    Start,
    kept_by,
    prepared,
    told_how_to_go_on,
)
from preceptor_trainer.deployment.failures import said_plainly
from preceptor_trainer.deployment.local import LocalDeployment, write_settings
from preceptor_trainer.kit.loading import load_named
from preceptor_trainer.loop import Trainer
from preceptor_trainer.recipes.quickstart import quickstart
from preceptor_trainer.report import REPORT_FILE, terminal_summary
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.run.progress import Progress
from preceptor_trainer.run.publishing import AnotherGateway
from preceptor_trainer.run.standing import Standing

Seed = Annotated[int, typer.Option(help="Decides problems and samples.")]
Steps = Annotated[int, typer.Option(min=1, help="Optimiser steps.")]
Extend = Annotated[
    int | None, typer.Option(min=1, help="Number of further steps for a finished run.")
]


def train_command(
    recipe: Annotated[
        str,
        typer.Argument(help="module:function; takes `seed` and the options, returns a RunConfig."),
    ],
    run_dir: Annotated[
        Path, typer.Option(help="Folder of the run; an unfinished one is continued.")
    ],
    gateway: Annotated[str, typer.Option(help="URL of the gateway.")],
    key_file: Annotated[
        Path,
        typer.Option(help="File with a key of scope `trainer`.", exists=True, dir_okay=False),
    ],
    seed: Seed = 0,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Further arguments of the recipe, as NAME=VALUE; lists as JSON."),
    ] = None,
    extend: Extend = None,
) -> None:
    """Trains by a recipe against a running deployment; started again, it continues."""
    place = ("--run-dir", run_dir, "--gateway", gateway, "--key-file", key_file)
    other = _beside(run_dir)
    renamed = [f"name={other.name}" if pair.startswith("name=") else pair for pair in option or []]
    start = Start(
        run_dir=run_dir,
        options={"seed": seed, "option": option or []},
        command=("train", recipe, *place),
        anew=("train", recipe, "--run-dir", other, *place[2:]),
        options_anew={"seed": seed, "option": renamed},
    )
    planned = prepared(start, _config(recipe, seed, option or []), extend)
    try:
        key = read_key(key_file)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--key-file") from error
    with told_how_to_go_on(start), _said_plainly(start, key_file):
        summary = asyncio.run(_train(planned, run_dir, gateway, key))
    _show(summary, start, Console())


def quickstart_command(
    ctx: typer.Context,
    seed: Seed = 0,
    steps: Steps = 40,
    name: Annotated[
        str | None, typer.Option(help="Name of the run; an unfinished one is continued.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs"),
    held_out: Annotated[int, typer.Option(min=1, help="Held-out problems.")] = 200,
    samples: Annotated[int, typer.Option(min=1, help="Samples of each held-out problem.")] = 16,
    withhold_feedback: Annotated[
        bool, typer.Option(help="Control: the expert sees no feedback.")
    ] = False,
    extend: Extend = None,
) -> None:
    """Trains the shipped student on one machine.

    Starts every service, trains, reports, cleans up.
    """
    run_dir = _run_folder(runs, name, extend)
    options = {
        "seed": seed,
        "steps": steps,
        "held_out": held_out,
        "samples": samples,
        "withhold_feedback": withhold_feedback,
    }
    place = () if runs == Path("runs") else ("--runs", runs)
    start = Start(
        run_dir=run_dir,
        options=options,
        command=("quickstart", "--name", run_dir.name, *place),
        anew=("quickstart", "--name", _beside(run_dir).name, *place),
        options_of=_quickstart_options,
    )
    if extend is not None:
        options |= _as_begun(ctx, start)
    planned = prepared(start, _quickstart(run_dir.name, options), extend)
    console = Console()
    with told_how_to_go_on(start), _said_plainly(start):
        write_settings(run_dir, needs_feedback=not options["withhold_feedback"])
        with LocalDeployment(run_dir, console) as deployment:
            summary = asyncio.run(_train(planned, run_dir, deployment.gateway_url, deployment.key))
    _show(summary, start, console)


def _quickstart(name: str, options: Mapping[str, Any]) -> RunConfig:
    try:
        return quickstart(
            name=name,
            seed=options["seed"],
            steps=options["steps"],
            held_out=options["held_out"],
            num_samples=options["samples"],
            withhold_feedback=options["withhold_feedback"],
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _quickstart_options(begun: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the quickstart that has these settings."""
    problems = begun["evaluation"]["problems"]
    return {
        "seed": begun["seed"],
        "steps": begun["steps"],
        "held_out": int(problems.split()[0]) if isinstance(problems, str) else len(problems),
        "samples": begun["evaluation"]["num_samples"],
        "withhold_feedback": begun["context"]["class"] == "NothingInView",
    }


def _as_begun(ctx: typer.Context, start: Start) -> dict[str, Any]:
    """Options that the run was begun with, where the command does not give them."""
    begun = Standing.read(start.run_dir).begun
    kept = {} if begun is None else _quickstart_options(begun)
    return {
        name: value
        for name, value in kept.items()
        if getattr(ctx.get_parameter_source(name), "name", "DEFAULT") == "DEFAULT"
    }


async def _train(planned: Planned, run_dir: Path, url: str, key: str) -> dict[str, Any]:
    run_dir.mkdir(parents=True, exist_ok=True)
    async with GatewayClient(url, key) as gateway:
        with Progress() as progress:
            trainer = Trainer(
                planned.config, run_dir, gateway, progress, may_grow=planned.is_extended
            )
            return await trainer.run()


def _said_plainly(start: Start, key_file: Path | None = None) -> AbstractContextManager[None]:
    return said_plainly(
        lambda: kept_by(start.run_dir),
        start.to_continue(),
        key_file=key_file,
        also=(AnotherGateway, NoPromptFits),
    )


def _show(summary: dict[str, Any], start: Start, console: Console) -> None:
    report = start.run_dir / REPORT_FILE
    if report.exists():
        console.print(terminal_summary(summary, report), soft_wrap=True)
    else:
        console.print(f"{start.run_dir}: {summary['steps']} steps", soft_wrap=True)


def _run_folder(runs: Path, name: str | None, extend: int | None) -> Path:
    """The folder of the run `name`; without a name, the unfinished quickstart, else a new one."""
    if name is None and extend is not None:
        raise typer.BadParameter("needs the --name of the run", param_hint="--extend")
    if name is not None:
        folder = runs / name
        if extend is None and Standing.read(folder).finished:
            raise typer.BadParameter(
                f"{folder} holds a finished run; --extend N gives it N steps more",
                param_hint="--name",
            )
        return folder
    number = 1
    while Standing.read(folder := runs / f"quickstart-{number}").finished:
        number += 1
    return folder


def _beside(run_dir: Path) -> Path:
    """The same folder name with the next free number."""
    base, _, last = run_dir.name.rpartition("-")
    stem, number = (base, int(last)) if base and last.isdecimal() else (run_dir.name, 1)
    while (folder := run_dir.with_name(f"{stem}-{number + 1}")).exists():
        number += 1
    return folder


def _config(recipe: str, seed: int, pairs: list[str]) -> RunConfig:
    """Calls the recipe, and checks what it returns.

    Raises:
        typer.BadParameter: the recipe refuses an option, or returns something else.
    """
    function = load_named(recipe, "RECIPE")
    try:
        options = typed_options(pairs, function)
        # Bound first: a TypeError from inside the recipe must keep its traceback.
        arguments = signature(function).bind(seed=seed, **options)
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(f"{recipe!r}: {error}", param_hint="--option") from error
    try:
        config = function(*arguments.args, **arguments.kwargs)
    except ValueError as error:
        raise typer.BadParameter(f"{recipe!r}: {error}", param_hint="RECIPE") from error
    if not isinstance(config, RunConfig):
        raise typer.BadParameter(
            f"{recipe!r} returned a {type(config).__name__}, not a RunConfig", param_hint="RECIPE"
        )
    return config
