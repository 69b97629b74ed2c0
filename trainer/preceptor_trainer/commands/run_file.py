"""`preceptor train run.toml`: starts what the run needs, trains, and says how to go on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console

from preceptor_clients.cli.paste import pasted
from preceptor_clients.contract.deployment import Deployment, to_toml
from preceptor_clients.kit.files import write_whole
from preceptor_trainer.commands.going_on import Start, prepared, told_how_to_go_on
from preceptor_trainer.commands.room import check_room, plan_of, services_here
from preceptor_trainer.commands.training import beside, said_of, show, train, trainer_key
from preceptor_trainer.data.hub import at_commit
from preceptor_trainer.deployment.failures import say
from preceptor_trainer.deployment.local import LocalDeployment
from preceptor_trainer.run.standing import OtherSettings, Standing, differences
from preceptor_trainer.runfile.building import Built, build
from preceptor_trainer.runfile.reading import read_run_file
from preceptor_trainer.runfile.schema import RunFile, settings_of

FILE_SETTINGS: Final = "run_file.json"
"""The file's keys with which the run was begun."""
_MAY_CHANGE: Final = frozenset(
    {"run.gateway", "run.key_file", "run.folder", "run.name", "run.ranks", "run.when_short"}
)
"""Keys of the place of a run, which change nothing of it but the order of sums."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run is, as options of the command; they win over the file."""

    run_dir: Path | None = None
    gateway: str | None = None
    key_file: Path | None = None


def names_file(what: str) -> bool:
    """Whether the argument of `preceptor train` is a run's file, and not a recipe."""
    return what.endswith(".toml") or Path(what).is_file()


def refuse_options(*given: tuple[str, object]) -> None:
    """Refuses options that a run's file has keys for."""
    for flag, value in given:
        if value is not None:
            raise typer.BadParameter("is for a recipe; a file has --set", param_hint=flag)


def train_file(path: Path, settings: Sequence[str], place: Place, extend: int | None) -> None:
    """Trains as the file says."""
    console = Console()
    with refused_plainly():
        run_file = _with_place(read_run_file(path, settings), place)
        name = run_file.run.name or path.stem
        run_dir = place.run_dir or path.parent / run_file.run.folder / name
        start = _start(path, settings, place, run_dir)
        with told_how_to_go_on(start):
            _check_file(run_dir, run_file)
        as_begun = _with_commit(run_file, run_dir)
        built = build(as_begun, path.resolve().parent, name=name, run_dir=run_dir)
    planned = prepared(start, built.config, extend)
    write_whole(run_dir / FILE_SETTINGS, json.dumps(settings_of(run_file), indent=1) + "\n")
    _announce(console, run_dir, built, run_file)
    if not Standing.read(run_dir).finished:
        plan = plan_of(planned.config, run_dir, services_here(run_file, built))
        check_room(plan, refuse=run_file.run.when_short == "refuse")
    with told_how_to_go_on(start), said_of(start, run_file.run.key_file):
        if run_file.run.gateway is not None and run_file.run.key_file is not None:
            key = trainer_key(path.parent / run_file.run.key_file)
            summary = asyncio.run(train(planned, run_dir, run_file.run.gateway, key))
        else:
            write_deployment(run_dir, built.deployment)
            with LocalDeployment(run_dir, console) as local:
                summary = asyncio.run(train(planned, run_dir, local.gateway_url, local.key))
    show(summary, start, console)


@contextmanager
def refused_plainly() -> Generator[None]:
    """A file that cannot be run is the user's mistake, which the message names."""
    try:
        yield
    except ValueError as error:
        say(str(error))
        raise typer.Exit(2) from None


def _with_place(run_file: RunFile, place: Place) -> RunFile:
    if place.gateway is None and place.key_file is None:
        return run_file
    if place.gateway is None or place.key_file is None:
        raise ValueError("--gateway and --key-file are given together")
    # Absolute, because a path of the command line is not relative to the file.
    own = {"gateway": place.gateway, "key_file": place.key_file.resolve()}
    return run_file.model_copy(update={"run": run_file.run.model_copy(update=own)})


def _start(path: Path, settings: Sequence[str], place: Place, run_dir: Path) -> Start:
    words: list[str | Path] = []
    if place.gateway is not None and place.key_file is not None:
        words = ["--gateway", place.gateway, "--key-file", place.key_file]
    other = beside(run_dir)
    here = [*words, "--run-dir", run_dir] if place.run_dir is not None else words
    anew = [*words, "--run-dir", other] if place.run_dir is not None else words
    kept = [pair for pair in settings if not pair.replace(" ", "").startswith("run.name=")]
    renamed = kept if place.run_dir is not None else [*kept, f"run.name={other.name}"]
    return Start(
        run_dir=run_dir,
        options={"set": list(settings)},
        command=("train", path, *here),
        anew=("train", path, *anew),
        options_anew={"set": renamed},
    )


def _check_file(run_dir: Path, run_file: RunFile) -> None:
    """Checks that an existing run goes on with the file that it was begun with.

    Raises:
        OtherSettings: keys differ; the message names every one.
    """
    path = run_dir / FILE_SETTINGS
    if Standing.read(run_dir).begun is None or not path.exists():
        return
    begun: dict[str, Any] = json.loads(path.read_text())
    found = differences(begun, settings_of(run_file))
    changed = [difference for difference in found if difference.name not in _MAY_CHANGE]
    if changed:
        raise OtherSettings(run_dir, changed, begun)


def _with_commit(run_file: RunFile, run_dir: Path) -> RunFile:
    """The file with the commit of its model that the run was begun with: a branch moves on."""
    begun, path = Standing.read(run_dir).begun, run_file.model.path
    if begun is None or path is None or not (run_dir / FILE_SETTINGS).exists():
        return run_file
    model = run_file.model.model_copy(update={"path": at_commit(path, Path(begun["model"]))})
    return run_file.model_copy(update={"model": model})


def _announce(console: Console, run_dir: Path, built: Built, run_file: RunFile) -> None:
    config = built.config
    experts = [expert.name for expert in config.experts]
    asked = [*experts, *config.sources]
    where = run_file.run.gateway or "this machine"
    lines = [
        f"run        {run_dir}",
        f"student    {config.model}",
        *built.rows,
        f"asks       {', '.join(asked) or 'nobody'}, on {where}",
        *_people(run_dir, run_file),
        *(f"note       {note}" for note in built.notes),
    ]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True, highlight=False)


def _people(run_dir: Path, run_file: RunFile) -> list[str]:
    if run_file.teacher.people is None or run_file.run.gateway is not None:
        return []
    command = pasted("corrections", "people", "add", "NAME", "--run-dir", run_dir)
    return [f"people     sign in with what this prints, while the run lasts: {command}"]


def write_deployment(run_dir: Path, deployment: Deployment) -> None:
    """Writes the run's `preceptor.toml`, anew at each start: the run's file decides."""
    comment = (
        "The deployment of one run, written by `preceptor train` from the run's file at each "
        "start.\nPorts 0 are chosen when it starts; the gateway keeps its port as long as it is "
        "free."
    )
    write_whole(run_dir / "preceptor.toml", to_toml(deployment, comment=comment))
