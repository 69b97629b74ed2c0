"""The response has to match a regular expression, or to hold the answer where it says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from preceptor_clients.sdk.judging import Feedback, Response
from preceptor_services.feedback.verifiers.columns import answers_of, shown


def regex(
    row: Mapping[str, Any],
    response: Response,
    *,
    pattern: str | None = None,
    column: str = "pattern",
    answer: str = "answer",
    whole: bool = False,
) -> Feedback:
    """Looks for a pattern; a pattern with a group finds the text that has to be the answer.

    Args:
        row: The row of data.
        response: The student's text.
        pattern: Python regular expression; the row's own where absent.
        column: Column with the pattern of a row.
        answer: Column with the answer, for a pattern with a group; the last match counts.
        whole: Whether the pattern has to match the whole response.
    """
    expression = re.compile(str(answers_of(row, column)[0]) if pattern is None else pattern)
    cut = "the response was cut off; " if response.cut_off else ""
    found = _last_match(expression, response, whole=whole)
    if found is None:
        return Feedback(0.0, f"{cut}the response does not match {expression.pattern}")
    if not expression.groups:
        return Feedback(1.0)
    answers = answers_of(row, answer)
    given = next((group for group in found.groups() if group is not None), "").strip()
    if given in {str(one).strip() for one in answers}:
        return Feedback(1.0)
    return Feedback(0.0, f"{cut}{given!r} is wrong; the answer is {shown(answers)}")


def _last_match(expression: re.Pattern[str], text: str, *, whole: bool) -> re.Match[str] | None:
    if whole:
        return expression.fullmatch(text.strip())
    last = None
    for match in expression.finditer(text):
        last = match
    return last
