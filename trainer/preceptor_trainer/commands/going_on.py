"""Decides whether a run may begin or continue in its folder; if not, prints what to do.

Everything here is decided before a service starts.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import typer

from preceptor_clients.cli.paste import pasted
from preceptor_trainer.commands.begun import keep_options, kept_options
from preceptor_trainer.deployment.failures import say
from preceptor_trainer.run.checkpoint import latest_checkpoint
from preceptor_trainer.run.config import RunConfig, describe_run
from preceptor_trainer.run.standing import (
    CannotExtend,
    OtherSettings,
    Standing,
    check_settings,
    extended,
    steps_to_take,
)


@dataclass(frozen=True, kw_only=True)
class Start:
    """A command that begins a run or continues it."""

    run_dir: Path
    options: Mapping[str, Any]
    """The options as given, without those that name the place of the run."""
    command: tuple[str | Path, ...]
    """The command with its place, without options."""
    anew: tuple[str | Path, ...]
    """The same for a new run."""
    options_anew: Mapping[str, Any] | None = None
    """Options of the new run, where they differ."""
    options_of: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    """Derives the options from a run's settings, where that is possible."""

    def to_continue(self, begun: Mapping[str, Any] | None = None) -> str:
        """The command that goes on with the run, which was begun with the settings `begun`."""
        options = kept_options(self.run_dir)
        if begun is not None and self.options_of is not None:
            options = self.options_of(begun)
        return pasted(*self.command, *as_words(self.options if options is None else options))

    def to_begin_anew(self) -> str:
        """The command that begins another run with these options."""
        return pasted(*self.anew, *as_words(self.options_anew or self.options))


def as_words(options: Mapping[str, Any]) -> list[str]:
    """`{"held_out": 3, "option": ["a=1"]}` as words of a command."""
    words: list[str] = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif isinstance(value, list):
            words += [word for one in cast("list[Any]", value) for word in (flag, str(one))]
        elif value is not None and value is not False:
            words += [flag, str(value)]
    return words


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What the trainer is to run."""

    config: RunConfig
    is_extended: bool
    """Whether it has more steps than it was begun with."""


def prepared(start: Start, config: RunConfig, extend: int | None) -> Planned:
    """What the trainer is to run: `config`, with the steps that the run was given since.

    Raises:
        typer.Exit: the run was begun with other settings, or cannot be extended; it is reported.
    """
    with told_how_to_go_on(start):
        standing = Standing.read(start.run_dir)
        if standing.begun is not None:
            check_settings(standing.begun, describe_run(config), start.run_dir, may_grow=False)
        steps = steps_to_take(standing, config, extend)
        if standing.begun is not None or not standing.lineages:
            keep_options(start.run_dir, start.options)
    return Planned(config=extended(config, steps), is_extended=steps > config.steps)


@contextmanager
def told_how_to_go_on(start: Start) -> Generator[None]:
    """Prints why a run cannot continue, and the commands that work."""
    try:
        yield
    except OtherSettings as error:
        say(
            f"{error}\n"
            f"continue it:  {start.to_continue(error.begun)}\n"
            f"start anew:   {start.to_begin_anew()}"
        )
        raise typer.Exit(1) from None
    except CannotExtend as error:
        say(f"{start.run_dir}: {error}\ncontinue it:  {start.to_continue()}")
        raise typer.Exit(1) from None


def kept_by(run_dir: Path) -> str:
    """A sentence about the steps that the run's folder keeps."""
    found = latest_checkpoint(run_dir / "checkpoints")
    if found is None or int(found.name) == 0:
        return f"{run_dir} has no checkpoint yet, so that the run begins with its first step again"
    return f"{run_dir} keeps steps 1 to {int(found.name)}; later ones are taken again"
