"""Request bodies and replies in either rendering, with a limit on the size of a body."""

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
from preceptor_services.kit.threads import FRAME_ADVANTAGE, ITEM, UNKNOWN, off_loop

_MOST_JSON_BYTES: Final = 8 << 20
_INTEGER_BITS: Final = 64
M = TypeVar("M", bound=BaseModel)


def body_of(
    cls: type[M], *, integer_bits: int | None = _INTEGER_BITS, unread: bool = False
) -> Callable[[Request], Awaitable[M]]:
    """A dependency that reads a `cls` from the body in the format of its `Content-Type`.

    Args:
        cls: Type of the body.
        integer_bits: Size limit of integers; None if the body contains data of third parties.
        unread: Leave the arrays of a frame unread, as in `wire.parse`.
    """

    async def read_body(request: Request) -> M:
        body = await request.body()
        media_type = request.headers.get("content-type")
        # A small compressed body may expand enormously, so the expanded size is limited too.
        limits = Limits(body_bytes=request.app.state.max_body_bytes)
        read = partial(
            wire.parse,
            *(cls, body, media_type),
            limits=limits,
            integer_bits=integer_bits,
            unread=unread,
        )
        if len(body) > _MOST_JSON_BYTES and body[:4] != MAGIC:
            # Parsing JSON holds the GIL: it blocks every other request, even in a thread.
            raise TooLarge(
                f"JSON of more than {_MOST_JSON_BYTES} bytes is refused; send it as a frame, or in "
                "parts",
                field="body",
            )
        return await on_bytes(wire.reading_size(body), read)

    return read_body


async def reply(
    request: Request, message: BaseModel, *, size: int = UNKNOWN, unread: bool = False
) -> Response:
    """`message` in the format that the caller's `Accept` header requests.

    Args:
        request: The request.
        message: The reply.
        size: Approximate count of numbers in it; a long or unknown reply is rendered in a thread.
        unread: Parts of the message were not validated, but are as they came in a frame.
    """
    media_type, exact, compress = wire.accepted(request.headers.get("accept"))
    if media_type == wire.FRAME and not exact and not compress:
        size //= FRAME_ADVANTAGE
    if unread and media_type == wire.JSON:
        message = await off_loop(size, wire.read, message)
    body = await off_loop(size, wire.render, message, media_type, exact=exact, compress=compress)
    return Response(body, media_type=media_type)


def size_of(outcomes: LogprobsOutcomes | FeedbackOutcomes) -> int:
    """Approximate count of numbers in the outcomes."""
    size = FRAME_ADVANTAGE * ITEM * len(outcomes.outcomes)
    if isinstance(outcomes, LogprobsOutcomes):
        size += sum(2 * o.answer.ids_PK.size for o in outcomes.outcomes if o.answer is not None)
    return size
