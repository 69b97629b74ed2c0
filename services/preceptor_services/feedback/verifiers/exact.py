"""The whole response has to be the answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from preceptor_clients.sdk.judging import Feedback, Response
from preceptor_services.feedback.verifiers.columns import answers_of, shown


def exact(
    row: Mapping[str, Any],
    response: Response,
    *,
    answer: str = "answer",
    ignore_case: bool = False,
    ignore_space: bool = True,
) -> Feedback:
    """Compares the response with the answer, character by character.

    Args:
        row: The row of data.
        response: The student's text.
        answer: Column with the answer, or with a list of answers that are all right.
        ignore_case: Whether upper and lower case are the same.
        ignore_space: Whether every run of white space is one space, and none at the ends.
    """

    def plain(value: object) -> str:
        text = str(value)
        text = re.sub(r"\s+", " ", text).strip() if ignore_space else text
        return text.casefold() if ignore_case else text

    answers = answers_of(row, answer)
    if plain(response) in {plain(one) for one in answers}:
        return Feedback(1.0)
    cut = "the response was cut off; " if response.cut_off else ""
    return Feedback(0.0, f"{cut}the answer is {shown(answers)}")
