"""Queries answered apart from each other: one that fails costs itself alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from preceptor_clients.errors import PreceptorError
from preceptor_clients.schemas import PrefixAnswer, PrefixQuery


async def answer_each(
    queries: Sequence[PrefixQuery], answer: Callable[[PrefixQuery], Awaitable[PrefixAnswer]]
) -> list[PrefixAnswer | PreceptorError]:
    """What `answer` gives for each query, all at once; an error in the place of its query."""

    async def one(query: PrefixQuery) -> PrefixAnswer | PreceptorError:
        try:
            return await answer(query)
        except PreceptorError as error:
            return error

    return await asyncio.gather(*(one(query) for query in queries))
