"""Request bodies and replies in either rendering, and never more of a body than the limit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

from fastapi import Request, Response
from pydantic import BaseModel

from preceptor_clients.contract import wire
from preceptor_clients.contract.errors import TooLarge
from preceptor_clients.contract.frame import MAGIC, Limits
from preceptor_clients.contract.schemas import FeedbackOutcomes, LogprobsOutcomes
from preceptor_clients.kit.threads import on_bytes
from preceptor_services.kit.threads import ITEM, UNKNOWN, off_loop

_MOST_JSON_BYTES: Final = 8 << 20
_INTEGER_BITS: Final = 64
M = TypeVar("M", bound=BaseModel)


def body_of(
    cls: type[M], *, integer_bits: int | None = _INTEGER_BITS
) -> Callable[[Request], Awaitable[M]]:
    """A dependency that reads a `cls` from the body, as its `Content-Type` says.

    Args:
        cls: Type of the body.
        integer_bits: The largest integers; None where the body brings data of others along.
    """

    async def read_body(request: Request) -> M:
        body = await request.body()
        media_type = request.headers.get("content-type")
        # A small compressed body may claim to be huge; what it may become is bounded as well.
        limits = Limits(body_bytes=request.app.state.max_body_bytes)
        read = partial(wire.parse, cls, body, media_type, limits=limits, integer_bits=integer_bits)
        if len(body) > _MOST_JSON_BYTES and body[:4] != MAGIC:
            # Reading JSON stops every other request, in a thread or not.
            raise TooLarge(
                f"JSON of more than {_MOST_JSON_BYTES} bytes is refused; send it as a frame, or in "
                "parts",
                field="body",
            )
        return await on_bytes(len(body), read)

    return read_body


async def reply(request: Request, message: BaseModel, *, size: int = UNKNOWN) -> Response:
    """`message` as the caller's `Accept` asks for it.

    Args:
        request: What is replied to.
        message: The reply.
        size: About how many numbers are in it; what is long, or may be, is rendered in a thread.
    """
    media_type, exact, compress = wire.accepted(request.headers.get("accept"))
    body = await off_loop(size, wire.render, message, media_type, exact=exact, compress=compress)
    return Response(body, media_type=media_type)


def size_of(outcomes: LogprobsOutcomes | FeedbackOutcomes) -> int:
    """About how many numbers outcomes hold."""
    size = ITEM * len(outcomes.outcomes)
    if isinstance(outcomes, LogprobsOutcomes):
        size += sum(2 * o.answer.ids_PK.size for o in outcomes.outcomes if o.answer is not None)
    return size
