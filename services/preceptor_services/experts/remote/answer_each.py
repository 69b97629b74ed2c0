"""Queries answered apart from each other: one that fails costs itself alone."""

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
    """What `answer` gives for each question, all at once; an error in the place of its question."""

    async def one(question: Q) -> PrefixAnswer | PreceptorError:
        try:
            return await answer(question)
        except PreceptorError as error:
            return error

    return await asyncio.gather(*(one(question) for question in questions))
