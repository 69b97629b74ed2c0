"""`preceptor up`: the whole deployment on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from preceptor_clients.cli.paste import pasted
from preceptor_clients.kit.logs import log_to_stderr
from preceptor_services.corrections.place import PAGE
from preceptor_services.kit.consoles import console_for_tables
from preceptor_services.supervisor.supervisor import ChildFailed, Supervisor, write_description

_PARENT_POLL_S: Final = 0.5


def up_command(
    config: Annotated[Path, typer.Option(help="The deployment's TOML file.")] = Path(
        "preceptor.toml"
    ),
    ready_file: Annotated[
        Path | None,
        typer.Option(
            help="JSON file to write when all is ready; the deployment then stops with its caller."
        ),
    ] = None,
) -> None:
    """Starts and watches broker, gateway, dispatcher and the services that have a `use` class."""
    log_to_stderr()
    console = console_for_tables()
    try:
        asyncio.run(_up(config, ready_file, console))
    except (ChildFailed, OSError, ValueError) as error:
        Console(stderr=True).print(str(error), markup=False, soft_wrap=True, highlight=False)
        raise typer.Exit(1) from None


async def _up(config: Path, ready_file: Path | None, console: Console) -> None:
    parent = os.getppid()
    main = asyncio.current_task()
    assert main is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, _cancel_once, main)
    with contextlib.suppress(asyncio.CancelledError):
        watching = asyncio.create_task(_leave_with(parent, main)) if ready_file else None
        async with Supervisor(config) as supervisor:
            console.print(_table(supervisor))
            _say_where_people_work(supervisor, console)
            if ready_file is not None:
                supervisor.on_restart = lambda: write_description(
                    ready_file, supervisor.description()
                )
                write_description(ready_file, supervisor.description())
            try:
                await supervisor.watch()
            finally:
                if ready_file is not None:
                    ready_file.unlink(missing_ok=True)
                if watching is not None:
                    watching.cancel()


def _cancel_once(main: asyncio.Task[None]) -> None:
    # A second Ctrl-C must not abort the orderly stop that the first one began.
    if not main.cancelling():
        main.cancel()


async def _leave_with(parent: int, main: asyncio.Task[None]) -> None:
    """Stops when the program that started `preceptor up` with a ready file has ended."""
    while os.getppid() == parent:
        await asyncio.sleep(_PARENT_POLL_S)
    _cancel_once(main)


def _say_where_people_work(supervisor: Supervisor, console: Console) -> None:
    invite = pasted("corrections", "people", "add", "ann", "--run-dir", supervisor.folder)
    for line in (
        f"correction page: {supervisor.settings.gateway.url}{PAGE}",
        f"a key for ann:   {invite}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _table(supervisor: Supervisor) -> Table:
    table = Table(title="preceptor is up; Ctrl-C ends it", title_justify="left")
    for heading in ("process", "pid", "address", "log"):
        table.add_column(heading, overflow="fold")
    for child in supervisor.children:
        spec = child.spec
        table.add_row(spec.name, str(child.pid), spec.url or "", str(spec.log))
    return table
