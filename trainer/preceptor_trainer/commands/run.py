"""The trainer's commands.

`preceptor train`, for a deployment that runs, and `preceptor quickstart`, which starts its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from preceptor_clients.contract.errors import PreceptorError
from preceptor_clients.http.clients import GatewayClient
from preceptor_clients.kit.naming import parse_options
from preceptor_trainer.deployment.local import DeploymentFailed, LocalDeployment, write_settings
from preceptor_trainer.kit.loading import load_named
from preceptor_trainer.loop import Trainer
from preceptor_trainer.recipes.quickstart import quickstart
from preceptor_trainer.report import REPORT_FILE, terminal_summary
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.run.progress import Progress

Seed = Annotated[int, typer.Option(help="Decides problems and samples.")]
Steps = Annotated[int, typer.Option(min=1, help="Optimiser steps.")]


def train_command(
    recipe: Annotated[
        str,
        typer.Argument(help="module:function; takes `seed` and the options, returns a RunConfig."),
    ],
    run_dir: Annotated[Path, typer.Option(help="Folder of the run; an unfinished one goes on.")],
    gateway: Annotated[str, typer.Option(help="URL of the gateway.")],
    key_file: Annotated[
        Path,
        typer.Option(help="File with a key of scope `trainer`.", exists=True, dir_okay=False),
    ],
    seed: Seed = 0,
    option: Annotated[
        list[str] | None, typer.Option(help="Further arguments of the recipe, as name=JSON.")
    ] = None,
) -> None:
    """Trains by a recipe against a running deployment; started again, it continues."""
    config = _config(recipe, seed, _options(option or []))
    with _said_plainly():
        summary = asyncio.run(_train(config, run_dir, gateway, key_file.read_text().strip()))
    _show(summary, run_dir, Console())


def quickstart_command(
    seed: Seed = 0,
    steps: Steps = 40,
    name: Annotated[
        str | None, typer.Option(help="Name of the run; an unfinished one of that name goes on.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs"),
    held_out: Annotated[int, typer.Option(min=1, help="Held-out problems.")] = 200,
    samples: Annotated[int, typer.Option(min=1, help="Samples of each held-out problem.")] = 16,
    withhold_feedback: Annotated[
        bool, typer.Option(help="Control: the expert sees no feedback.")
    ] = False,
) -> None:
    """Trains the shipped student on one machine.

    Starts every service, trains, reports, cleans up.
    """
    run_dir = _run_folder(runs, name)
    config = quickstart(
        name=run_dir.name,
        seed=seed,
        steps=steps,
        held_out=held_out,
        num_samples=samples,
        withhold_feedback=withhold_feedback,
    )
    write_settings(run_dir, needs_feedback=not withhold_feedback)
    console = Console()
    with _said_plainly(), LocalDeployment(run_dir, console) as deployment:
        summary = asyncio.run(_train(config, run_dir, deployment.gateway_url, deployment.key))
    _show(summary, run_dir, console)


async def _train(config: RunConfig, run_dir: Path, url: str, key: str) -> dict[str, Any]:
    run_dir.mkdir(parents=True, exist_ok=True)
    async with GatewayClient(url, key) as gateway:
        with Progress() as progress:
            return await Trainer(config, run_dir, gateway, progress).run()


def _show(summary: dict[str, Any], run_dir: Path, console: Console) -> None:
    console.print(terminal_summary(summary, run_dir / REPORT_FILE), soft_wrap=True)


@contextmanager
def _said_plainly() -> Generator[None]:
    """Errors that say what is wrong by themselves come without a traceback."""
    try:
        yield
    except (DeploymentFailed, PreceptorError) as error:
        Console(stderr=True).print(str(error), markup=False, soft_wrap=True, highlight=False)
        raise typer.Exit(1) from None


def _run_folder(runs: Path, name: str | None) -> Path:
    """The folder of the run `name`; without a name, the unfinished quickstart, else a new one."""
    if name is not None:
        if (runs / name / "summary.json").exists():
            raise typer.BadParameter(f"{runs / name} holds a finished run", param_hint="--name")
        return runs / name
    number = 1
    while (folder := runs / f"quickstart-{number}").joinpath("summary.json").exists():
        number += 1
    return folder


def _config(recipe: str, seed: int, options: dict[str, Any]) -> RunConfig:
    """What the recipe returns.

    Raises:
        typer.BadParameter: it does not take an option, refuses one, or returns something else.
    """
    function = load_named(recipe, "RECIPE")
    try:
        # Bound first: a TypeError from inside the recipe is the recipe's own, and keeps its trace.
        arguments = signature(function).bind(seed=seed, **options)
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(f"{recipe!r}: {error}", param_hint="--option") from error
    try:
        config = function(*arguments.args, **arguments.kwargs)
    except ValueError as error:
        raise typer.BadParameter(f"{recipe!r}: {error}", param_hint="RECIPE") from error
    if not isinstance(config, RunConfig):
        raise typer.BadParameter(
            f"{recipe!r} returned a {type(config).__name__}, no RunConfig", param_hint="RECIPE"
        )
    return config


def _options(pairs: list[str]) -> dict[str, Any]:
    try:
        return parse_options(pairs)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--option") from None
