"""Content-addressed blobs on a local folder: named by the SHA-256 of their bytes, written once.

A blob is written before the row that names it: to its own file, synced, then renamed. So no row
names an incomplete blob; a blob without a row is harmless. Frames are stored as zstd; the name is
the hash of the bytes before compression, and reading checks it.

Example:
    sha = await blobs.put(data)
    await blobs.get(sha)
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Generator
from pathlib import Path
from typing import Final, Protocol

import zstandard

from preceptor_clients.contract.errors import NotFound, ServiceFailed, ServiceUnavailable, TooLarge
from preceptor_clients.kit.files import OWNER_ONLY, write_whole
from preceptor_services.kit.compression import compress, decompress
from preceptor_services.kit.private import make_private_folder

_log = logging.getLogger("preceptor.gateway")
_COMPRESSED: Final = ".zst"
_WORTH_COMPRESSING: Final = 256
_PROBE: Final = 16 << 10
_WORTHWHILE: Final = 0.8
"""A part of so many bytes must shrink to this share of them."""


class BlobStore(Protocol):
    """Storage for arrays and payloads, such as a local folder or an object store."""

    async def put(self, data: bytes) -> str:
        """Writes `data` and returns its SHA-256; does nothing if it is already stored."""
        ...

    async def get(self, sha256: str) -> bytes:
        """The bytes, checked against their name.

        Raises:
            NotFound: they were never written, or were deleted.
            ServiceUnavailable: the disk is full, read-only or failing.
        """
        ...


class BlobDamaged(ServiceFailed):
    """The bytes of a blob do not match its hash."""

    code, title = "blob-damaged", "Stored bytes are damaged"


class LocalBlobs:
    """Blobs in a folder, two levels deep."""

    def __init__(self, root: Path, *, max_bytes: int = 1 << 30) -> None:
        self._root = root
        self._max_bytes = max_bytes

    async def put(self, data: bytes) -> str:
        """See `BlobStore.put`."""
        if len(data) > self._max_bytes:
            raise TooLarge(
                f"a blob of {len(data)} bytes is over the limit of {self._max_bytes}", field="body"
            )
        with _disk_errors():
            return await asyncio.to_thread(self._put, data)

    async def get(self, sha256: str) -> bytes:
        """See `BlobStore.get`."""
        with _disk_errors():
            return await asyncio.to_thread(self._get, sha256)

    def _put(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        plain = self._path(sha256)
        packed = plain.with_name(plain.name + _COMPRESSED)
        if plain.exists() or packed.exists():
            return sha256
        body = compress(data) if _is_compressible(data) else data
        target = plain if len(body) >= len(data) else packed
        if not target.parent.is_dir():
            make_private_folder(target.parent)
        write_whole(target, data if target is plain else body, mode=OWNER_ONLY)
        return sha256

    def _get(self, sha256: str) -> bytes:
        plain = self._path(sha256)
        packed = plain.with_name(plain.name + _COMPRESSED)
        file = packed if packed.exists() else plain
        try:
            data = (
                decompress(packed.read_bytes(), self._max_bytes)
                if file is packed
                else plain.read_bytes()
            )
        except FileNotFoundError:
            raise NotFound(f"no blob {sha256}", field="sha256") from None
        except zstandard.ZstdError as error:
            raise _damaged(file, sha256, str(error)) from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise _damaged(file, sha256, "its bytes do not match the hash")
        return data

    def _path(self, sha256: str) -> Path:
        return self._root / sha256[:2] / sha256


def _damaged(file: Path, sha256: str, why: str) -> BlobDamaged:
    """Renames the file, so that the same bytes can be written again."""
    with contextlib.suppress(OSError):
        file.rename(file.with_name(file.name + ".damaged"))
    return BlobDamaged(f"blob {sha256}: {why}", field="sha256")


@contextlib.contextmanager
def _disk_errors() -> Generator[None]:
    try:
        yield
    except OSError as error:
        # Full, read-only or failing. The whole message has paths, so it is only logged.
        _log.warning("the blob store failed: %s", error)
        reason = error.strerror or "it failed"
        raise ServiceUnavailable(
            f"the gateway's blob store is not available: {reason}; its log has more",
            field="blobs",
            retry_after_s=1.0,
        ) from error


def _is_compressible(data: bytes) -> bool:
    """Whether a part of it shrinks enough: compressing all of it takes longer than writing it."""
    if len(data) <= _PROBE:
        return len(data) >= _WORTH_COMPRESSING
    middle = (len(data) - _PROBE) // 2
    return len(compress(data[middle : middle + _PROBE])) < _WORTHWHILE * _PROBE
