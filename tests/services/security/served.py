"""The gateway on a real port, served by a thread of this process, for clients that block."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from preceptor_clients.contract.deployment import Deployment
from preceptor_services.gateway.app import create_app
from preceptor_services.kit.blobs import LocalBlobs
from preceptor_services.store.database import Database

from ..databases import sqlite_with_tables
from ..world import EXPERT, SOURCE, TEACHER, RecordingQueue, SaysWhoItIs, make_settings


@dataclass(frozen=True)
class Served:
    """A gateway that runs in another thread."""

    url: str
    settings: Deployment
    openapi: dict[str, Any]

    def headers(self, key: str) -> dict[str, str]:
        """Those of a caller with this key of the settings, or with a key that nobody has."""
        named = self.settings.keys.get(key)
        token = "x" * 43 if named is None else named.file.read_text()
        return {"authorization": f"Bearer {token}"}


@contextlib.contextmanager
def serving_gateway(
    folder: Path, database_url: str | None = None, **gateway: Any
) -> Iterator[Served]:
    """A gateway whose three services only say who they are, and whose queue only records."""
    settings = make_settings(folder, **gateway)
    database = Database.open(database_url or sqlite_with_tables(folder / "gateway.db"))
    infos = iter((EXPERT, TEACHER, SOURCE))
    app = create_app(
        settings,
        database,
        LocalBlobs(settings.gateway.blobs),
        RecordingQueue(),
        connect=lambda url, key, addresses: SaysWhoItIs(next(infos, EXPERT)),
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="critical", access_log=False, timeout_graceful_shutdown=1)
    )

    async def serve() -> None:
        await server.serve(sockets=[listener])
        await database.aclose()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        while not server.started and thread.is_alive():
            thread.join(0.01)
        assert server.started
        yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", settings, app.openapi())
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
