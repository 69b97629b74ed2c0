"""Answers queries independently: a failure affects only its own query."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from preceptor_clients.contract.errors import PreceptorError
from preceptor_clients.contract.schemas import PrefixAnswer

Q = TypeVar("Q")


async def answer_each(
    questions: Sequence[Q], answer: Callable[[Q], Awaitable[PrefixAnswer]]
) -> list[PrefixAnswer | PreceptorError]:
    """The concurrent results of `answer`, in order; a failed query has its error as result."""

    async def one(question: Q) -> PrefixAnswer | PreceptorError:
        try:
            return await answer(question)
        except PreceptorError as error:
            return error

    return await asyncio.gather(*(one(question) for question in questions))
