"""The last number of the response has to be the answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal

from preceptor_clients.sdk.judging import Feedback, Response
from preceptor_services.feedback.verifiers.columns import answers_of, shown

_NUMBER: Final = re.compile(
    r"(?<![\w.])[-+−]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+)?(?:[eE][-+]?\d{1,3})?(?![\w])"
)


def numeric(
    row: Mapping[str, Any],
    response: Response,
    *,
    answer: str = "answer",
    tolerance: float = 0.0,
    relative: float = 0.0,
    take: Literal["last", "first", "only"] = "last",
) -> Feedback:
    """Finds a number in the response and compares it with the answer.

    Thousands may be separated by commas. The answer is a number, or a text whose last number
    counts, so that worked solutions serve as answers.

    Args:
        row: The row of data.
        response: The student's text.
        answer: Column with the answer, or with a list of answers that are all right.
        tolerance: Largest difference that is still right.
        relative: The same as a share of the answer.
        take: Which number of the response counts; `only` wants exactly one.
    """
    answers = answers_of(row, answer)
    wanted = [_answer(one, answer) for one in answers]
    found = numbers_in(response)
    cut = "the response was cut off; " if response.cut_off else ""
    right = f"the answer is {shown([_plain(number) for number in wanted])}"
    if not found:
        return Feedback(0.0, f"{cut}there is no number in the response; {right}")
    if take == "only" and len(found) > 1:
        return Feedback(0.0, f"{cut}the response has {len(found)} numbers instead of one; {right}")
    given = found[0] if take == "first" else found[-1]
    for number in wanted:
        allowed = max(Decimal(str(tolerance)), Decimal(str(relative)) * abs(number))
        if abs(given - number) <= allowed:
            return Feedback(1.0)
    return Feedback(0.0, f"{cut}{_plain(given)} is wrong; {right}")


def numbers_in(text: str) -> list[Decimal]:
    """The numbers of a text, in their order."""
    found: list[Decimal] = []
    for match in _NUMBER.finditer(text):
        written = match[0].replace(",", "").replace("−", "-")
        try:
            found.append(Decimal(written))
        except InvalidOperation:
            continue  # the empty match, or a sign alone
    return found


def _answer(value: Any, column: str) -> Decimal:
    found = numbers_in(str(value))
    if isinstance(value, bool) or not found:
        raise ValueError(f"the column {column!r} has no number: {value!r}")
    return found[-1]


def _plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
