"""When what a program gave is what was expected: LiveCodeBench's own rules.

- Standard output: white space around the whole and around each line does not matter. Then both have
  the same number of lines, and each pair of lines is the same text, or the same numbers in decimal:
  `1.0` and `1.00` are equal, `0.1` and `0.10000001` are not. There is no tolerance.
- A returned value: Python's own `==`, so that `1`, `1.0` and `True` are equal. A tuple counts as a
  list, but not inside of another value.

Source: github.com/LiveCodeBench/LiveCodeBench, `lcb_runner/evaluation/testing_util.py`. Left out:
objects that say themselves what they equal.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Final

_MOST_DIGITS: Final = 10_000
"""Of a number that is compared in decimal; longer ones are equal as texts alone."""


def same_output(output: str, expected: str) -> bool:
    """Whether a program wrote what was expected."""
    ours, theirs = _stripped_lines(output), _stripped_lines(expected)
    return len(ours) == len(theirs) and all(map(_same_line, ours, theirs))


def same_return(value: object, expected: object) -> bool:
    """Whether a function returned what was expected; both are JSON values."""
    try:
        return value == expected
    except RecursionError:
        return False


def _stripped_lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def _same_line(ours: str, theirs: str) -> bool:
    if ours == theirs:
        return True
    numbers = _decimals(ours)
    return numbers is not None and numbers == _decimals(theirs)


def _decimals(line: str) -> list[Decimal] | None:
    words = line.split()
    if any(len(word) > _MOST_DIGITS for word in words):
        return None
    try:
        numbers = [Decimal(word) for word in words]
    except InvalidOperation:
        return None
    # A signalling NaN raises when it is compared, and no NaN equals anything.
    return None if any(number.is_nan() for number in numbers) else numbers
