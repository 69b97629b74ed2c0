"""Payloads: a task's private data, stored once as a blob and named by hash in feedback queries."""

from __future__ import annotations

from dataclasses import dataclass

from preceptor_clients.contract.errors import Invalid
from preceptor_services.kit.blobs import BlobStore
from preceptor_services.kit.clock import Clock
from preceptor_services.store import services
from preceptor_services.store.database import Database


@dataclass(frozen=True, kw_only=True)
class Payloads:
    """Stores and returns payloads."""

    database: Database
    blobs: BlobStore
    clock: Clock

    async def put(self, sha256: str, data: bytes) -> None:
        """Stores `data`.

        Raises:
            Invalid: the hash of `data` is not `sha256`.
        """
        found = await self.blobs.put(data)
        if found != sha256:
            raise Invalid(f"does not match the body, which has SHA-256 {found}", field="sha256")
        async with self.database.write() as conn:
            await services.add_blobs(conn, {sha256: len(data)}, self.clock.now())

    async def get(self, sha256: str) -> bytes:
        """The bytes of that hash."""
        return await self.blobs.get(sha256)
