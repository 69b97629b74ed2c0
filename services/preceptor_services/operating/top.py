"""`preceptor top`: a live view of a running deployment in the terminal."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from preceptor_clients.cli.main import fail_with
from preceptor_clients.contract.errors import PreceptorError
from preceptor_clients.http.connection import NO_RETRY
from preceptor_clients.http.gateway import GatewayClient
from preceptor_services.kit.consoles import console_for_tables
from preceptor_services.operating.frame import frame
from preceptor_services.operating.place import Config, KeyFile, Place, Url, find_place
from preceptor_services.operating.sample import Interval, take_sample


def top_command(
    config: Config = None,
    url: Url = None,
    key_file: KeyFile = None,
    interval: Annotated[
        float, typer.Option(min=0.1, help="Seconds between two frames; rates are over them.")
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
) -> None:
    """Shows queues, rates, services and the newest run of a running deployment."""
    try:
        place = find_place(config, url, key_file)
    except (OSError, ValueError) as error:
        raise fail_with(str(error)) from None
    work = _print_once(place, interval) if once else _watch(place, interval)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(work)


def _connected(place: Place) -> GatewayClient:
    return GatewayClient(place.url, place.key, max_concurrency=2, retry=NO_RETRY)


async def _print_once(place: Place, interval_s: float) -> None:
    async with _connected(place) as gateway:
        before = await take_sample(gateway)
        await asyncio.sleep(interval_s)
        console_for_tables().print(frame(Interval(before, await take_sample(gateway))))


async def _watch(place: Place, interval_s: float) -> None:
    console = Console()
    async with _connected(place) as gateway:
        before = await take_sample(gateway)
        # The other screen, so that the terminal is as before when it ends.
        with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(interval_s)
                try:
                    now = await take_sample(gateway)
                except PreceptorError as error:
                    live.update(f"{place.url}: {error.detail}", refresh=True)
                    continue
                live.update(frame(Interval(before, now)), refresh=True)
                before = now
