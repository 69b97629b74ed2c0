"""Claims about outputs and values that are as expected: those of LiveCodeBench's grader."""

from __future__ import annotations

from typing import Any

import pytest

from preceptor_services.feedback.executor.outputs import same_output, same_return
from preceptor_services.feedback.executor.python_runner import plain


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("3\n", "3", True),
        ("\n 3 \n\n", "3\n", True),
        ("1 2\n3", "1 2 \n 3", True),
        ("1  2", "1 2", True),  # as numbers
        ("a  b", "a b", False),
        ("1\n\n2", "1\n2", False),
        ("1 2", "1\n2", False),
        ("1.0", "1.00", True),
        ("1", "1.0", True),
        ("1e3", "1000", True),
        ("0.1", "0.10000001", False),
        ("50000000000000000", "50000000000000001", False),
        ("-0", "0", True),
        ("007", "7", True),
        ("Yes", "YES", False),
        ("x 1.0", "x 1", False),
        ("nan", "NaN", False),
        ("nan", "nan", True),  # the same text
        ("inf", "Infinity", True),
        ("", "", True),
        ("", "0", False),
        ("1\r\n2", "1\n2", True),
        ("sNaN", "1", False),
        ("1" * 100_000, "1" * 99_999 + "2", False),
    ],
)
def test_lines_are_the_same_texts_or_the_same_decimals(
    output: str, expected: str, same: bool
) -> None:
    assert same_output(output, expected) is same


@pytest.mark.parametrize(
    ("returned", "expected", "same"),
    [
        (1, 1.0, True),
        (True, 1, True),
        (0.1 + 0.2, 0.3, False),
        ([1, [2]], [1, [2]], True),
        ({"a": 1}, {"a": 1}, True),
        ("1", 1, False),
        (None, [], False),
    ],
)
def test_a_returned_value_is_compared_as_python_does(
    returned: Any, expected: Any, same: bool
) -> None:
    assert same_return(plain(returned), expected) is same


@pytest.mark.parametrize("value", [{1, 2}, [(1, 2)], {1: 2}, b"x", object()])
def test_a_value_that_json_does_not_have_equals_nothing(value: Any) -> None:
    with pytest.raises(TypeError):
        plain(value)


def test_two_values_that_are_nested_too_deeply_to_compare_are_different() -> None:
    deep: list[Any] = []
    other: list[Any] = []
    for _ in range(5_000):
        deep, other = [deep], [other]

    assert same_return(deep, other) is False
