"""Groups questions into calls, in their order. Pure.

    fill_calls(questions, size=lambda q: (1, q.num_tokens), most=(64, 8_192))

A call is closed as soon as the next question does not fit: searching further for a smaller one
would delay the big ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def fill_calls(
    items: Iterable[T],
    *,
    size: Callable[[T], tuple[int, int]],
    most: tuple[int, int],
    enough_tokens: int | None = None,
) -> list[list[T]]:
    """Splits items into calls.

    Args:
        items: The questions; each stays whole.
        size: Number of questions and of tokens in an item.
        most: Most questions and tokens of one call; a larger item gets its own call.
        enough_tokens: A call with this many tokens is closed; None fills it up to `most`.

    Returns:
        The items of each call, in order.
    """
    calls: list[list[T]] = []
    room_questions = room_tokens = 0
    for item in items:
        num_questions, num_tokens = size(item)
        if not calls or num_questions > room_questions or num_tokens > room_tokens:
            calls.append([])
            room_questions, room_tokens = most
        calls[-1].append(item)
        room_questions -= num_questions
        room_tokens -= num_tokens
        if enough_tokens is not None and most[1] - room_tokens >= enough_tokens:
            room_questions = 0
    return calls
