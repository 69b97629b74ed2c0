"""A pack is read once for all who want it at the same time, and again after a failure."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from preceptor_clients.contract.errors import NotFound
from preceptor_services.kit.array_blobs import ArrayBlobs
from preceptor_services.kit.blobs import LocalBlobs

ENTRIES = {"a": {"ids_PK": np.arange(6, dtype=np.int32).reshape(2, 3), "expert": "e"}}


class CountedBlobs(LocalBlobs):
    """Counts what is read."""

    num_reads = 0

    async def get(self, sha256: str) -> bytes:
        self.num_reads += 1
        await asyncio.sleep(0)
        return await super().get(sha256)


async def test_readers_of_one_pack_share_a_read(tmp_path: Path) -> None:
    blobs = CountedBlobs(tmp_path)
    written = await ArrayBlobs(blobs).write(ENTRIES)
    packs = ArrayBlobs(blobs)

    found = await asyncio.gather(*(packs.read(written.sha256) for _ in range(5)))

    assert blobs.num_reads == 1
    assert all(np.array_equal(one["a"]["ids_PK"], ENTRIES["a"]["ids_PK"]) for one in found)


async def test_a_reader_that_leaves_stops_no_other(tmp_path: Path) -> None:
    blobs = CountedBlobs(tmp_path)
    written = await ArrayBlobs(blobs).write(ENTRIES)
    packs = ArrayBlobs(blobs)
    first, second = (asyncio.create_task(packs.read(written.sha256)) for _ in range(2))
    await asyncio.sleep(0)

    first.cancel()

    assert "a" in await second
    assert first.cancelled()


async def test_a_failed_read_fails_all_and_is_tried_again(tmp_path: Path) -> None:
    packs = ArrayBlobs(blobs := CountedBlobs(tmp_path))

    for num_reads in (1, 2):
        failed = await asyncio.gather(
            *(packs.read("0" * 64) for _ in range(3)), return_exceptions=True
        )
        assert [type(error) for error in failed] == [NotFound] * 3
        assert blobs.num_reads == num_reads


async def test_what_takes_more_memory_than_allowed_is_forgotten(tmp_path: Path) -> None:
    packs = ArrayBlobs(blobs := CountedBlobs(tmp_path), memory_bytes=1 << 20)
    big = {"a": {"ids_PK": np.zeros((1 << 18,), np.int32)}}
    written = [await packs.write({str(n): big["a"]}) for n in range(2)]

    await packs.read(written[0].sha256)

    assert blobs.num_reads == 1


@pytest.mark.parametrize("num_entries", [1, 3])
async def test_a_pack_just_written_is_not_read_from_disk(tmp_path: Path, num_entries: int) -> None:
    packs = ArrayBlobs(blobs := CountedBlobs(tmp_path))
    written = await packs.write({str(n): ENTRIES["a"] for n in range(num_entries)})

    assert len(await packs.read(written.sha256)) == num_entries
    assert blobs.num_reads == 0
