"""The response has to choose the right one of several answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from preceptor_clients.sdk.judging import Feedback, Response
from preceptor_services.feedback.verifiers.columns import answers_of, shown


def choice(
    row: Mapping[str, Any],
    response: Response,
    *,
    answer: str = "answer",
    choices: list[str] | str = "choices",
) -> Feedback:
    """Finds which of the choices the response names last, as a word of its own.

    Args:
        row: The row of data.
        response: The student's text.
        answer: Column with the right choice; a whole number is its place in the list, from 0.
        choices: The choices, or the column that has them; A to Z where a row has none.
    """
    offered = _offered(row, choices)
    right = [_right(one, offered) for one in answers_of(row, answer)]
    given = _last_named(response, offered)
    cut = "the response was cut off; " if response.cut_off else ""
    if given is None:
        listed = ", ".join(offered)
        return Feedback(0.0, f"{cut}none of {listed} was chosen; the answer is {shown(right)}")
    if given in right:
        return Feedback(1.0)
    return Feedback(0.0, f"{cut}{given} is wrong; the answer is {shown(right)}")


def _offered(row: Mapping[str, Any], choices: list[str] | str) -> list[str]:
    if isinstance(choices, list):
        return [str(one) for one in choices]
    if choices in row:
        return [str(one) for one in answers_of(row, choices)]
    return [chr(ord("A") + i) for i in range(26)]


def _right(value: Any, offered: list[str]) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and str(value) not in offered:
        if not 0 <= value < len(offered):
            raise ValueError(f"the answer is choice {value}, but there are {len(offered)}")
        return offered[value]
    if str(value) not in offered:
        raise ValueError(f"the answer {value!r} is none of {', '.join(offered)}")
    return str(value)


def _last_named(text: str, offered: list[str]) -> str | None:
    """The choice that ends last; of two that end together, the longer one."""
    ends: list[tuple[int, int, str]] = []
    for one in offered:
        # A single letter must be a capital: `a` is a word of English.
        flags = 0 if len(one) == 1 else re.IGNORECASE
        for match in re.finditer(rf"(?<!\w){re.escape(one)}(?!\w)", text, flags):
            ends.append((match.end(), len(one), one))
    return max(ends)[2] if ends else None
