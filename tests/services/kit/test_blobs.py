"""Blobs are what their names say, or nothing."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from preceptor_clients.contract.errors import NotFound, ServiceUnavailable, TooLarge
from preceptor_services.kit.blobs import BlobDamaged, LocalBlobs


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path, max_bytes=1 << 20)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("data", [b"", b"small", b"zeros" * 10_000, bytes(range(256)) * 7])
async def test_bytes_come_back_under_their_hash(blobs: LocalBlobs, data: bytes) -> None:
    sha256 = await blobs.put(data)

    assert sha256 == hashlib.sha256(data).hexdigest()
    assert await blobs.get(sha256) == data


async def test_equal_blobs_are_one_file_however_many_write_at_once(
    blobs: LocalBlobs, tmp_path: Path
) -> None:
    names = await asyncio.gather(*(blobs.put(b"same" * 1000) for _ in range(20)))

    assert len(set(names)) == 1
    assert len(_files(tmp_path)) == 1


async def test_bytes_that_do_not_shrink_are_kept_as_they_are(
    blobs: LocalBlobs, tmp_path: Path
) -> None:
    noise, text = os.urandom(100_000), b"much the same " * 10_000

    names = {name: await blobs.put(data) for name, data in (("noise", noise), ("text", text))}

    assert {file.name for file in _files(tmp_path)} == {names["noise"], f"{names['text']}.zst"}
    assert await blobs.get(names["noise"]) == noise
    assert await blobs.get(names["text"]) == text


async def test_a_flipped_byte_is_found_and_named(blobs: LocalBlobs, tmp_path: Path) -> None:
    for data in (b"short and plain", b"long enough to be packed " * 100):
        sha256 = await blobs.put(data)
        [file] = [path for path in _files(tmp_path) if path.name.startswith(sha256)]
        stored = bytearray(file.read_bytes())
        stored[-2] ^= 1
        file.write_bytes(stored)

        with pytest.raises(BlobDamaged, match=sha256):
            await blobs.get(sha256)


async def test_unknown_and_oversized_blobs_are_refused(blobs: LocalBlobs) -> None:
    with pytest.raises(NotFound):
        await blobs.get("0" * 64)
    with pytest.raises(TooLarge):
        await blobs.put(b"x" * ((1 << 20) + 1))


async def test_a_blob_on_a_full_disk_is_refused_with_the_reason_and_leaves_nothing(
    small_disk: Path,
) -> None:
    blobs = LocalBlobs(small_disk / "blobs")

    with pytest.raises(ServiceUnavailable, match=r"No space left|File too large") as refused:
        await blobs.put(os.urandom(200_000))

    assert refused.value.retry_after_s is not None
    assert str(small_disk) not in refused.value.detail
    assert _files(small_disk) == []
    assert await blobs.get(await blobs.put(b"small")) == b"small"
