"""A gateway whose blobs stay in memory: what the answer path costs without writing them."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import uvloop

from preceptor_clients.contract.errors import NotFound
from preceptor_services.gateway import __main__ as gateway
from preceptor_services.kit.settings import load_settings


class BlobsInMemory:
    """Keeps blobs in a dictionary."""

    def __init__(self, root: Path) -> None:
        self._blobs: dict[str, bytes] = {}

    async def put(self, data: bytes) -> str:
        """Its SHA-256."""
        sha256 = hashlib.sha256(data).hexdigest()
        self._blobs[sha256] = data
        return sha256

    async def get(self, sha256: str) -> bytes:
        """The bytes."""
        if sha256 not in self._blobs:
            raise NotFound(f"no blob {sha256}", field="sha256")
        return self._blobs[sha256]


if __name__ == "__main__":
    gateway.LocalBlobs = BlobsInMemory  # type: ignore[assignment,misc]  the one part that differs
    uvloop.run(gateway.serve(load_settings(Path(sys.argv[sys.argv.index("--config") + 1]))))
