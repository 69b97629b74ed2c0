"""Claims about waiting for room."""

from __future__ import annotations

import asyncio

import pytest

from preceptor_clients.sdk.admission import Admission


async def test_what_is_inside_never_exceeds_the_capacity_and_everybody_gets_in() -> None:
    admission, inside, highest, done = Admission(10), 0, 0, []

    async def caller(number: int, size: int) -> None:
        nonlocal inside, highest
        async with admission.room(size):
            inside += size
            highest = max(highest, inside)
            await asyncio.sleep(0)
            inside -= size
            done.append(number)

    await asyncio.gather(*(caller(n, 1 + n * 7 % 10) for n in range(64)))

    assert highest <= 10
    assert sorted(done) == list(range(64))


async def test_a_large_caller_is_not_overtaken_by_small_ones() -> None:
    admission, order = Admission(10), []

    async def caller(name: str, size: int) -> None:
        async with admission.room(size):
            order.append(name)
            await asyncio.sleep(0)

    await asyncio.gather(caller("first", 6), caller("large", 10), caller("small", 1))

    assert order == ["first", "large", "small"]


async def test_a_caller_that_leaves_while_it_waits_holds_nothing() -> None:
    admission = Admission(10)

    async with admission.room(10):
        waiting = asyncio.create_task(hold(admission, 5))
        await asyncio.sleep(0)
        assert admission.num_waiting == 1
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    await asyncio.wait_for(hold(admission, 10), timeout=5)


async def test_room_given_to_a_caller_that_just_left_is_given_on() -> None:
    admission = Admission(10)
    async with admission.room(10):
        leaving = asyncio.create_task(hold(admission, 10))
        await asyncio.sleep(0)
    leaving.cancel()  # its room was given when the block ended; it has not run since

    await asyncio.gather(leaving, return_exceptions=True)

    await asyncio.wait_for(hold(admission, 10), timeout=5)


async def test_more_than_the_capacity_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="size: 11 is over the capacity of 10"):
        await hold(Admission(10), 11)


async def hold(admission: Admission, size: int) -> None:
    async with admission.room(size):
        await asyncio.sleep(0)
