"""Calls that come while one runs go together; each still fails or succeeds by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from preceptor_clients.contract.errors import ServiceUnavailable
from preceptor_services.kit.group_commit import GroupCommit


class Recorder:
    """Doubles numbers, refuses 13, breaks on 0; keeps the groups that it saw."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []

    async def __call__(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.groups.append(list(numbers))
        await asyncio.sleep(0)
        if 0 in numbers:
            raise RuntimeError("broken")
        return [ValueError("unlucky") if n == 13 else 2 * n for n in numbers]


async def test_calls_that_wait_go_together_in_order() -> None:
    recorder = Recorder()
    commit = GroupCommit(recorder)

    first = asyncio.create_task(commit(1))
    while not recorder.groups:
        await asyncio.sleep(0)
    others = await asyncio.gather(*(commit(n) for n in (2, 3, 4)))

    assert [await first, *others] == [2, 4, 6, 8]
    assert recorder.groups == [[1], [2, 3, 4]]


async def test_a_refusal_is_its_own() -> None:
    commit = GroupCommit(Recorder())

    results = await asyncio.gather(*(commit(n) for n in (1, 13, 2)), return_exceptions=True)

    assert results[0] == 2
    assert isinstance(results[1], ValueError)
    assert results[2] == 4


async def test_one_that_breaks_the_group_fails_by_itself() -> None:
    commit = GroupCommit(Recorder())

    results = await asyncio.gather(*(commit(n) for n in (1, 0, 2)), return_exceptions=True)

    assert results[0] == 2
    assert isinstance(results[1], RuntimeError)
    assert results[2] == 4


async def test_a_caller_who_leaves_stops_nobody() -> None:
    recorder = Recorder()
    commit = GroupCommit(recorder)
    leaving, staying = asyncio.create_task(commit(1)), asyncio.create_task(commit(2))
    await asyncio.sleep(0)

    leaving.cancel()

    assert await staying == 4
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await commit(3) == 6


async def test_a_store_that_is_away_fails_the_group_once() -> None:
    tried: list[int] = []

    async def run(items: Sequence[int]) -> list[int | Exception]:
        tried.append(len(items))
        raise ServiceUnavailable("locked")

    commit = GroupCommit(run)

    results = await asyncio.gather(*(commit(n) for n in range(5)), return_exceptions=True)

    assert all(isinstance(result, ServiceUnavailable) for result in results)
    assert tried == [5]
