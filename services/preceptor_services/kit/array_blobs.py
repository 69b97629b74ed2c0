"""Packs: blobs that map ids to entries with arrays, one per request.

A synced file per answer would cost more than the answer. Recently written or read blobs are kept in
memory, because answers are usually fetched within seconds of their arrival.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, Generic, NamedTuple, TypeVar

import numpy as np
from cachetools import LRUCache
from pydantic import BaseModel

from preceptor_clients.contract import frame
from preceptor_clients.contract.unread import Unread
from preceptor_clients.contract.wire import QUANTISED, reading_size
from preceptor_services.kit.blobs import BlobStore
from preceptor_services.kit.threads import FRAME_ADVANTAGE, ITEM, off_loop

_MEMORY_BYTES: Final = 8 << 20
_BESIDE_BYTES: Final = 4 << 10
"""About what an entry takes beside its arrays."""
_NUMBER_BYTES: Final = 4
"""Of most elements of arrays."""
_ARRAYS: Final = frozenset({Unread, np.ndarray})
OURS: Final = frame.Limits(header_bytes=1 << 30, body_bytes=1 << 34, arrays=1 << 30)
"""Own blobs with a checked hash may be as large as a whole step."""

E = TypeVar("E", bound=BaseModel | dict[str, Any])


class Written(NamedTuple):
    """A pack's name and size."""

    sha256: str
    size: int


class Packs(Generic[E]):
    """Writes and reads packs; `_decode` gives the entries of one."""

    def __init__(self, blobs: BlobStore, *, memory_bytes: int = _MEMORY_BYTES) -> None:
        self._blobs = blobs
        self._recent: LRUCache[str, tuple[int, dict[str, E]]] = LRUCache(
            memory_bytes, getsizeof=lambda pack: pack[0]
        )
        self._reading: dict[str, asyncio.Task[dict[str, E]]] = {}

    def _decode(self, data: bytes) -> dict[str, E]:
        raise NotImplementedError

    async def write(self, entries: Mapping[str, E]) -> Written:
        """Writes a pack; its blob is on disk when this returns."""
        num_bytes = _num_bytes(entries)
        size = ITEM * len(entries) + num_bytes // (_NUMBER_BYTES * FRAME_ADVANTAGE)
        data = await off_loop(size, frame.encode, dict(entries), quantised=QUANTISED)
        sha256 = await self._blobs.put(data)
        self._remember(sha256, dict(entries), num_bytes)
        return Written(sha256, len(data))

    async def read(self, sha256: str) -> dict[str, E]:
        """The entries of a pack, by their ids."""
        if sha256 in self._recent:
            return self._recent[sha256][1]
        # Answers of one pack are often read at once: the pack is read for all of them together.
        reading = self._reading.get(sha256)
        if reading is None:
            reading = asyncio.create_task(self._read(sha256))
            self._reading[sha256] = reading
            reading.add_done_callback(partial(self._end_reading, sha256))
        return await asyncio.shield(reading)

    def _end_reading(self, sha256: str, reading: asyncio.Task[dict[str, E]]) -> None:
        del self._reading[sha256]
        if not reading.cancelled():
            reading.exception()  # those who waited for it have it

    async def _read(self, sha256: str) -> dict[str, E]:
        data = await self._blobs.get(sha256)
        entries = await off_loop(reading_size(data), self._decode, data)
        self._remember(sha256, entries, _num_bytes(entries))
        return entries

    def _remember(self, sha256: str, entries: dict[str, E], num_bytes: int) -> None:
        size = _BESIDE_BYTES * len(entries) + num_bytes
        if sha256 not in self._recent and size <= self._recent.maxsize:
            self._recent[sha256] = (size, entries)


class ArrayBlobs(Packs[dict[str, Any]]):
    """Packs of records, whose arrays are read."""

    def _decode(self, data: bytes) -> dict[str, dict[str, Any]]:
        return frame.decode(data, limits=OURS)


def _num_bytes(entries: Mapping[str, BaseModel | dict[str, Any]]) -> int:
    """Memory of the arrays at the top level of entries, which are the large ones."""
    total = 0
    for entry in entries.values():
        for value in (entry if isinstance(entry, dict) else entry.__dict__).values():
            if value.__class__ in _ARRAYS:
                total += value.nbytes
    return total
