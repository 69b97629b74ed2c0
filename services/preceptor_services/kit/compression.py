"""zstd with one compressor and one decompressor per thread, because making one takes longer than
compressing a short text, and one cannot be used by two threads at once."""

from __future__ import annotations

import threading
from typing import Final

import zstandard

_LEVEL: Final = 1


class _PerThread(threading.local):
    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL)
        self.decompressor = zstandard.ZstdDecompressor()


_own: Final = _PerThread()


def compress(data: bytes | memoryview) -> bytes:
    """`data` as one zstd frame that states its size."""
    return _own.compressor.compress(data)


def decompress(packed: bytes, max_bytes: int = 0) -> bytes:
    """The data of a zstd frame.

    Args:
        packed: The frame.
        max_bytes: Size limit for a frame that does not state its size.
    """
    return _own.decompressor.decompress(packed, max_output_size=max_bytes)
