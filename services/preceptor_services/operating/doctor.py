"""`preceptor doctor`: checks a running deployment from outside, and says what to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import typer
from rich.console import Console

from preceptor_clients.cli.main import fail_with
from preceptor_clients.http.connection import NO_RETRY
from preceptor_clients.http.gateway import GatewayClient
from preceptor_services.operating.finding import Finding, exit_code
from preceptor_services.operating.gateway_checks import check_gateway
from preceptor_services.operating.place import Config, KeyFile, Place, Url, find_place
from preceptor_services.operating.settings_checks import check_settings


def doctor_command(config: Config = None, url: Url = None, key_file: KeyFile = None) -> None:
    """Checks a deployment from outside: each line is ok, warn or fail, and says what to do.

    With --url and --key-file alone, only the gateway is asked. With the settings, keys, disk,
    broker, experts and the sandbox are checked too, as far as they can be reached from here. The
    exit code is 1 if a line fails.
    """
    try:
        place = find_place(config, url, key_file)
    except (OSError, ValueError) as error:
        raise fail_with(str(error)) from None
    findings = asyncio.run(_print_all(place, Console()))
    raise typer.Exit(exit_code(findings))


async def _print_all(place: Place, console: Console) -> list[Finding]:
    findings: list[Finding] = []
    async for finding in examine(place):
        console.print(finding.line(), soft_wrap=True)
        findings.append(finding)
    return findings


async def examine(place: Place) -> AsyncIterator[Finding]:
    """Every finding, as it is made."""
    async with GatewayClient(place.url, place.key, max_concurrency=2, retry=NO_RETRY) as gateway:
        async for finding in check_gateway(gateway, place.url):
            yield finding
    if place.settings is not None:
        async for finding in check_settings(place.settings, place.url):
            yield finding
