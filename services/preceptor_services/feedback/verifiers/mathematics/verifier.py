"""The verifier `math`: compares the final answer of a response with the right one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from preceptor_clients.sdk.judging import Feedback, NotJudged, Response
from preceptor_services.feedback.verifiers.columns import answers_of, shown
from preceptor_services.feedback.verifiers.marked import last_boxed
from preceptor_services.feedback.verifiers.mathematics.comparing import same
from preceptor_services.feedback.verifiers.mathematics.found import Found, final_answer
from preceptor_services.feedback.verifiers.mathematics.reading import (
    Answer,
    Unreadable,
    letter_by_letter,
    math_verify,
    read,
)
from preceptor_services.feedback.verifiers.mathematics.units import factor_between, is_known

_SHORT: Final = 200
"""Characters of a response that may be the answer, letter by letter."""
_LONGEST: Final = 2000
"""Characters of an answer; nobody writes more in a box."""

math_verify()  # it takes a second, and a call has a time limit


def math(
    row: Mapping[str, Any],
    response: Response,
    *,
    answer: str = "answer",
    boxed: bool = False,
    digits: int = 6,
    unreadable: Literal["error", "wrong"] = "error",
) -> Feedback:
    r"""Compares mathematical answers by their meaning, with math-verify as the reader of LaTeX.

    The answer of a response is its last `\boxed{}`, or else what it says after `answer is`, its
    last formula, its last line, or its last number. What cannot be read or decided is an error with
    a reason and no score.

    Args:
        row: The row of data.
        response: The student's text.
        answer: Column with the answer in LaTeX or plain, a whole solution with a box, or a list of
            answers that are all right.
        boxed: Whether only an answer in a box counts.
        digits: Significant digits of a decimal number that stands for another value, as 0.333333
            for 1/3.
        unreadable: What an answer that cannot be read is: an error, or wrong.
    """
    right = [_written(one, answer) for one in answers_of(row, answer)]
    cut = "the response was cut off; " if response.cut_off else ""
    listed = shown(right)
    found = final_answer(response, boxed=boxed)
    if _is_one_of(right, found, "" if boxed else response):
        return Feedback(1.0)
    where = r"in \boxed{}" if boxed else "in the response"
    nothing = Feedback(0.0, f"{cut}there is no answer {where}; the answer is {listed}")
    if found is None:
        return nothing
    golden = [_gold(one) for one in right]
    try:
        return _compared(golden, _read(found.text), listed, cut, digits)
    except Unreadable as error:
        if not found.marked:
            return nothing  # any text at all, and nowhere said to be an answer
        if unreadable == "wrong":
            return Feedback(0.0, f"{cut}{error}; the answer is {listed}")
        raise NotJudged(str(error)) from error


# A newer one may judge otherwise, so they are part of the source's version.
math.libraries = ("math-verify", "latex2sympy2_extended", "sympy")  # type: ignore[attr-defined]


def _compared(right: list[Answer], given: Answer, listed: str, cut: str, digits: int) -> Feedback:
    verdicts = [_same(one, given, digits) for one in right]
    if True in verdicts:
        return Feedback(1.0)
    if None in verdicts:
        raise Unreadable(f"{given.written!r} and {listed!r} could not be compared")
    hint = _hint(right[0], given)
    return Feedback(0.0, f"{cut}{given.written} is wrong{hint}; the answer is {listed}")


def _read(written: str) -> Answer:
    if len(written) > _LONGEST:
        raise Unreadable(f"an answer of {len(written)} characters is not read")
    return read(written)


def _written(value: Any, column: str) -> str:
    """A right answer as a text; of a solution its box."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"the column {column!r} is no answer: {value!r}")
    # A decimal that is whole, as AMC's 27.0, is a whole number.
    whole = isinstance(value, float) and value.is_integer()
    text = str(int(value)) if whole else str(value)
    return last_boxed(text) or text


def _is_one_of(right: list[str], found: Found | None, response: str) -> bool:
    """Whether an answer is written as a right one, which then need not be read."""
    known = {letter_by_letter(one) for one in right}
    texts = [found.text] if found is not None else []
    texts += [response] if response and len(response) <= _SHORT else []
    return any(letter_by_letter(one) in known for one in texts)


def _gold(written: str) -> Answer:
    try:
        return _read(written)
    except Unreadable as error:
        raise NotJudged(f"the row's own answer: {error}") from error


def _same(right: Answer, given: Answer, digits: int) -> bool | None:
    if right.words is not None or given.words is not None:
        return (right.words or right.letters) == (given.words or given.letters)
    if right.parts or given.parts:
        return _same_parts(right, given, digits)
    if right.base is not None or given.base is not None:
        return _same_based(right, given)
    if right.unit is None or given.unit is None:
        return same(right.value, given.value, digits)
    factor = factor_between(given.unit, right.unit)
    if factor is not None:
        scaled = given.value * factor.numerator / factor.denominator if factor != 1 else given.value
        return same(right.value, scaled, digits)
    if not (is_known(right.unit) and is_known(given.unit)):
        return same(right.value, given.value, digits)  # what is counted may have many names
    # One is another length than the other, but of speeds that is not known here.
    return None if "/" in right.unit and "/" in given.unit else False


def _same_parts(right: Answer, given: Answer, digits: int) -> bool | None:
    one, other = right.parts, given.parts
    if not (one and other):
        # 3:4 may stand for 3/4.
        parts = one or other
        value = given.value if one else right.value
        if len(parts) != 2 or parts[1] == 0 or value is None:
            return False
        return same(value, read(f"\\frac{{{parts[0]}}}{{{parts[1]}}}").value, digits)
    if _is_time(right.written) or _is_time(given.written):
        return one == other
    products = [one[i] * other[0] == one[0] * other[i] for i in range(min(len(one), len(other)))]
    return len(one) == len(other) and all(products)


def _is_time(written: str) -> bool:
    first, _, second = written.strip("$ ").partition(":")
    return len(first) <= 2 and len(second) == 2 and second.startswith(("0", "15", "3", "45"))


def _same_based(right: Answer, given: Answer) -> bool | None:
    if right.base is not None and given.base is not None:
        return bool(right.value == given.value)
    # One names its base and the other does not: the same digits, or the same value.
    named, other = (right, given) if right.base is not None else (given, right)
    digits = named.written.strip("$ ").partition("_")[0]
    return same(other.value, named.value) or bool(str(other.value) == digits.lstrip("0"))


def _hint(right: Answer, given: Answer) -> str:
    """What is nearly right."""
    if right.value is None or given.value is None:
        return ""
    try:
        if same(right.value, -given.value) is True:
            return ", by its sign"
    except Exception:  # a set has no sign, and a hint is no verdict
        return ""
    return ""
