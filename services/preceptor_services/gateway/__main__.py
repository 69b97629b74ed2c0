"""Runs the gateway: `python -m preceptor_services.gateway --config preceptor.toml`.

Ends gracefully on SIGTERM and Ctrl-C: readiness goes first, requests under way are finished.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Final

import structlog
import typer
import uvicorn

from preceptor_services.blobs import LocalBlobs
from preceptor_services.config import Settings, load_settings
from preceptor_services.gateway.app import create_app
from preceptor_services.queue import JobQueue
from preceptor_services.store.database import Database

_DRAIN_S: Final = 10
_log = structlog.get_logger()


class _Server(uvicorn.Server):
    """Says that it is not ready as soon as it is told to end, and only then drains."""

    def handle_exit(self, sig: int, frame: object) -> None:
        app = self.config.app
        app.state.ready = False  # pyright: ignore[reportAttributeAccessIssue, reportFunctionMemberAccess]  uvicorn types the app as a bare callable
        super().handle_exit(sig, frame)  # pyright: ignore[reportArgumentType]  uvicorn wants the frame's own type


def gateway(
    config: Annotated[Path, typer.Option(help="The deployment's TOML file.")] = Path(
        "preceptor.toml"
    ),
) -> None:
    """Runs the gateway."""
    try:
        settings = load_settings(config)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--config") from error
    asyncio.run(serve(settings))


async def serve(settings: Settings) -> None:
    """Serves until it is told to end."""
    g = settings.gateway
    database = Database.open(g.database)
    queue = JobQueue.connect(g.broker, max_length=g.max_queue)
    try:
        app = create_app(settings, database, LocalBlobs(g.blobs), queue)
        server = _Server(
            uvicorn.Config(
                app,
                host=g.host,
                port=g.port,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=_DRAIN_S,
            )
        )
        _log.info("gateway starts", host=g.host, port=g.port)
        await server.serve()
    finally:
        await queue.aclose()
        await database.aclose()
    if not server.started:
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(gateway)
