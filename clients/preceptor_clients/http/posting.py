"""Many submissions to the gateway: posted in chunks, then collected until a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from preceptor_clients.contract.calls import fill_calls
from preceptor_clients.contract.errors import DeadlineExceeded
from preceptor_clients.contract.schemas import (
    FeedbackOutcome,
    FeedbackSubmission,
    PrefixOutcome,
    PrefixSubmission,
)

CHUNK_SUBMISSIONS: Final = 64
CHUNK_TOKENS: Final = 131_072
"""Most submissions and tokens of one call, unless one group alone has more."""
_LONGEST_WAIT_S: Final = 30.0
_SHORTEST_POLL_S: Final = 0.05
_PENDING: Final = frozenset({"queued", "running"})

_Submission = TypeVar("_Submission", PrefixSubmission, FeedbackSubmission)
_Outcome = TypeVar("_Outcome", PrefixOutcome, FeedbackOutcome)
_T = TypeVar("_T")


def wait_ms(wait_s: float) -> int:
    return max(0, int(wait_s * 1000))


async def ask_in_chunks(
    submissions: Sequence[_Submission],
    post: Callable[[Sequence[_Submission], float], Coroutine[Any, Any, list[_Outcome]]],
    collect: Callable[[Sequence[str], float], Coroutine[Any, Any, list[_Outcome]]],
    *,
    in_order: bool,
    timeout_s: float,
) -> list[_Outcome]:
    """Posts all chunks, then collects pending answers until the deadline."""
    end = asyncio.get_running_loop().time() + timeout_s
    chunks = _chunks(submissions)
    outcomes: dict[int, _Outcome] = {}

    async def post_chunk(chunk: list[int]) -> None:
        # A single chunk waits in its own call; several are all posted before the first wait.
        wait_s = _wait_s(end) if len(chunks) == 1 else 0.0
        async with asyncio.timeout_at(end):
            posted = await post([submissions[i] for i in chunk], wait_s)
        outcomes.update(zip(chunk, posted, strict=True))

    try:
        if in_order:
            for chunk in chunks:
                await post_chunk(chunk)
        else:
            await _all([post_chunk(chunk) for chunk in chunks])
    except TimeoutError:
        raise DeadlineExceeded(f"the questions were not posted within {timeout_s:g} s") from None
    await _all([_await_chunk(chunk, outcomes, collect, end) for chunk in chunks])
    return [_settled(outcomes[i], timeout_s) for i in range(len(submissions))]


async def _await_chunk(
    chunk: list[int],
    outcomes: dict[int, _Outcome],
    collect: Callable[[Sequence[str], float], Coroutine[Any, Any, list[_Outcome]]],
    end: float,
) -> None:
    """Collects the chunk's tickets again and again, into `outcomes`, until none is pending."""
    clock = asyncio.get_running_loop().time
    while pending := {i: t for i in chunk if (t := _pending_ticket(outcomes[i])) is not None}:
        asked_at = clock()
        if asked_at >= end:
            return
        try:
            async with asyncio.timeout_at(end):
                collected = await collect(list(pending.values()), _wait_s(end))
                outcomes.update(zip(pending, collected, strict=True))
                # If the gateway replies at once, this loop must not poll without a pause.
                await asyncio.sleep(max(0.0, _SHORTEST_POLL_S - (clock() - asked_at)))
        except (TimeoutError, DeadlineExceeded):
            return


def _pending_ticket(outcome: PrefixOutcome | FeedbackOutcome) -> str | None:
    ticket = outcome.ticket
    return ticket.id if ticket is not None and ticket.state in _PENDING else None


def _settled(outcome: _Outcome, timeout_s: float) -> _Outcome:
    if _pending_ticket(outcome) is None:
        return outcome
    late = DeadlineExceeded(f"no answer within {timeout_s:g} s")
    return outcome.model_copy(update={"problem": late.problem()})


def _wait_s(end: float) -> float:
    """How long the gateway may hold a reply so that it still arrives in time."""
    left_s = end - asyncio.get_running_loop().time()
    return max(0.0, min(_LONGEST_WAIT_S, left_s - min(2.0, left_s / 10)))


def _chunks(
    submissions: Sequence[PrefixSubmission | FeedbackSubmission],
) -> list[list[int]]:
    """Indices of the submissions of each call, in order of first appearance; groups stay whole."""
    groups: dict[str | int, list[int]] = {}
    for index, submission in enumerate(submissions):
        groups.setdefault(submission.query.group_id or index, []).append(index)

    def size(group: list[int]) -> tuple[int, int]:
        return len(group), sum(len(submissions[i].query.response_ids) for i in group)

    calls = fill_calls(groups.values(), size=size, most=(CHUNK_SUBMISSIONS, CHUNK_TOKENS))
    return [[index for group in call for index in group] for call in calls]


async def _all(work: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """All results in order; the first failure cancels the rest and is raised by itself."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
