"""Runs the gateway: `python -m preceptor_services.gateway --config preceptor.toml`.

Shuts down gracefully on SIGTERM and Ctrl-C: `/readyz` fails at once, requests that wait for answers
return what there is, and all open requests are completed.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer
import uvicorn
from fastapi import FastAPI

from preceptor_clients.contract.deployment import Deployment
from preceptor_clients.kit.garbage import collect_rarely
from preceptor_clients.kit.logs import log_to_stderr
from preceptor_clients.kit.tracing import start_tracing
from preceptor_clients.sdk.serving import http_protocol
from preceptor_services.gateway.app import create_app
from preceptor_services.jobs.streams import JobStreams
from preceptor_services.kit.blobs import LocalBlobs
from preceptor_services.kit.clock import KeptClock
from preceptor_services.kit.event_loop import run_process
from preceptor_services.kit.settings import broker_url, database_url, load_settings
from preceptor_services.store.database import Database

_DRAIN_S: Final = 10
_KEEP_CLOCK_S: Final = 5.0
_log = logging.getLogger("preceptor.gateway")


class _Server(uvicorn.Server):
    """Reports that it is not ready as soon as it receives a signal, and then drains."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._app.state.readiness.started = False
        # Not from within a signal's handler, which may interrupt any code.
        self._loop.call_soon_threadsafe(self._app.state.questions.notifier.stop_waiting)
        # Not the parent's method, which would end the drained process by the signal, not with 0.
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


def gateway(
    config: Annotated[Path, typer.Option(help="The deployment's TOML file.")] = Path(
        "preceptor.toml"
    ),
) -> None:
    """Runs the gateway."""
    log_to_stderr()
    try:
        start_tracing("gateway")
        settings = load_settings(config)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--config") from error
    run_process(serve(settings))


async def _keep_forever(clock: KeptClock) -> None:
    while True:
        try:
            await asyncio.to_thread(clock.keep)
        except OSError as error:
            _log.warning("the server time cannot be stored: %s", error)
        await asyncio.sleep(_KEEP_CLOCK_S)


async def serve(settings: Deployment) -> None:
    """Serves until the process receives a signal to stop."""
    g = settings.gateway
    database = Database.open(database_url(g))
    queue = JobStreams.connect(broker_url(g), max_length=g.max_queue)
    try:
        clock = KeptClock(g.blobs / "clock.json")
        app = create_app(settings, database, LocalBlobs(g.blobs), queue, clock=clock)
        keeping = asyncio.create_task(_keep_forever(clock), name="keep the clock")
        server = _Server(
            uvicorn.Config(
                app,
                host=g.host,
                port=g.port,
                log_level="warning",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=_DRAIN_S,
                http=http_protocol(),
                ws="none",
            ),
            app,
        )
        collect_rarely()
        _log.info("listening on %s:%d", g.host, g.port)
        await server.serve()
        keeping.cancel()
    finally:
        await queue.aclose()
        await database.aclose()
    if not server.started:
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(gateway)
