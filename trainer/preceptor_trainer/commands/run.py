"""The trainer's commands: `preceptor train` and `preceptor quickstart`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from preceptor_clients.cli.options import typed_options
from preceptor_trainer.commands.going_on import Start, prepared, told_how_to_go_on
from preceptor_trainer.commands.room import check_room, plan_of
from preceptor_trainer.commands.run_file import Place, names_file, refuse_options, train_file
from preceptor_trainer.commands.training import beside, said_of, show, train, trainer_key
from preceptor_trainer.deployment.local import LocalDeployment, write_settings
from preceptor_trainer.kit.loading import load_named
from preceptor_trainer.learner.follower import follow
from preceptor_trainer.learner.group import is_launched, launched
from preceptor_trainer.recipes.quickstart import quickstart
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.run.standing import Standing

Seed = Annotated[int, typer.Option(help="Decides problems and samples.")]
Steps = Annotated[int, typer.Option(min=1, help="Optimiser steps.")]
Extend = Annotated[
    int | None, typer.Option(min=1, help="Number of further steps for a finished run.")
]


def train_command(
    what: Annotated[
        str,
        typer.Argument(
            metavar="FILE|RECIPE",
            help="A run's TOML file; or module:function, which takes `seed` and the options, and "
            "returns a RunConfig.",
        ),
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Replaces a key of the file; the value is TOML or a bare word.",
        ),
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run; an unfinished one is continued. Needed with a recipe; with a "
            "file by default `runs/NAME` beside it."
        ),
    ] = None,
    gateway: Annotated[
        str | None,
        typer.Option(
            help="URL of the gateway. Needed with a recipe; with a file all services are started "
            "where absent."
        ),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with a key of scope `trainer`, for the gateway.", exists=True, dir_okay=False
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="With a recipe: decides problems and samples; 0 by default.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Further arguments of the recipe, as NAME=VALUE; lists as JSON."),
    ] = None,
    extend: Extend = None,
) -> None:
    """Trains by a file or a recipe; started again, it continues."""
    if is_launched() and int(os.environ["RANK"]) > 0:
        follow(launched())
        return
    if names_file(what):
        refuse_options(("--seed", seed), ("--option", option))
        place = Place(run_dir=run_dir, gateway=gateway, key_file=key_file)
        train_file(Path(what), set_ or [], place, extend)
        return
    if ":" not in what:
        raise typer.BadParameter(
            f"{what!r} is neither a file nor a recipe (module:function)", param_hint="FILE|RECIPE"
        )
    if set_:
        raise typer.BadParameter("is for a run's file; a recipe has --option", param_hint="--set")
    needed = (("--run-dir", run_dir), ("--gateway", gateway), ("--key-file", key_file))
    for flag, value in needed:
        if value is None:
            raise typer.BadParameter("is needed with a recipe", param_hint=flag)
    assert run_dir is not None
    assert gateway is not None
    assert key_file is not None
    _train_recipe(what, run_dir, gateway, key_file, seed or 0, option or [], extend)


def _train_recipe(
    recipe: str,
    run_dir: Path,
    gateway: str,
    key_file: Path,
    seed: int,
    option: list[str],
    extend: int | None,
) -> None:
    place = ("--run-dir", run_dir, "--gateway", gateway, "--key-file", key_file)
    other = beside(run_dir)
    renamed = [f"name={other.name}" if pair.startswith("name=") else pair for pair in option]
    start = Start(
        run_dir=run_dir,
        options={"seed": seed, "option": option},
        command=("train", recipe, *place),
        anew=("train", recipe, "--run-dir", other, *place[2:]),
        options_anew={"seed": seed, "option": renamed},
    )
    planned = prepared(start, _config(recipe, seed, option), extend)
    key = trainer_key(key_file)
    check_room(plan_of(planned.config, run_dir), refuse=False)
    with told_how_to_go_on(start), said_of(start, key_file):
        summary = asyncio.run(train(planned, run_dir, gateway, key))
    show(summary, start, Console())


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
        anew=("quickstart", "--name", beside(run_dir).name, *place),
        options_of=_quickstart_options,
    )
    if extend is not None:
        options |= _as_begun(ctx, start)
    planned = prepared(start, _quickstart(run_dir.name, options), extend)
    console = Console()
    with told_how_to_go_on(start), said_of(start):
        write_settings(run_dir, needs_feedback=not options["withhold_feedback"])
        with LocalDeployment(run_dir, console) as deployment:
            summary = asyncio.run(train(planned, run_dir, deployment.gateway_url, deployment.key))
    show(summary, start, console)


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
