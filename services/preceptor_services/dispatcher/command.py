"""`preceptor dispatcher`: runs one dispatcher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preceptor_clients.kit.logs import log_to_stderr
from preceptor_clients.kit.tracing import start_tracing
from preceptor_services.dispatcher.process import run_dispatcher
from preceptor_services.dispatcher.worker import WorkerConfig
from preceptor_services.kit.event_loop import run_process
from preceptor_services.kit.settings import load_settings

_DEFAULTS = WorkerConfig()


def dispatcher_command(
    config: Annotated[Path, typer.Option(help="The deployment's TOML file.")],
    gateway: Annotated[
        str | None, typer.Option(help="URL of the gateway, if it runs on another machine.")
    ] = None,
    lease_s: Annotated[
        float,
        typer.Option(help="Seconds without renewal after which another dispatcher reclaims jobs."),
    ] = _DEFAULTS.lease_s,
    grace_s: Annotated[
        float, typer.Option(help="Seconds that running calls may take after SIGTERM.")
    ] = _DEFAULTS.grace_s,
    alive_file: Annotated[
        Path | None,
        typer.Option(help="File to touch after each answer of the gateway, for health checks."),
    ] = None,
) -> None:
    """Sends jobs from the broker to experts and feedback sources."""
    log_to_stderr()
    try:
        start_tracing("dispatcher")
        settings = load_settings(config)
        worker_config = WorkerConfig(lease_s=lease_s, grace_s=grace_s)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    run_process(run_dispatcher(settings, worker_config, gateway, alive_file=alive_file))
