"""Claims about the built-in verifiers: what is right, and what they say where it is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from preceptor_clients.sdk import Response
from preceptor_clients.sdk.judging import load_judge, verifiers


def judged(name: str, row: dict[str, Any], response: str, **options: Any) -> Any:
    return load_judge(name)(row, Response(response), **options)


NAMES = ["choice", "exact", "json_schema", "knights_and_knaves", "math", "numeric", "regex",
         "tool_calls"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_verifier_is_found_by_its_name(name: str) -> None:
    assert name in verifiers()


@pytest.mark.parametrize(
    ("name", "row", "response", "options"),
    [
        ("exact", {"answer": "New York"}, " New\n York ", {}),
        ("exact", {"answer": ["yes", "ja"]}, "JA", {"ignore_case": True}),
        ("exact", {"solution": 42}, "42", {"answer": "solution"}),
        ("numeric", {"answer": 84}, "7 * 12 = 84.", {}),
        ("numeric", {"answer": "so she pays\n#### 1,234"}, "It is 1234", {}),
        ("numeric", {"answer": 1234567}, "about 1,234,567 in all", {}),
        ("numeric", {"answer": -0.5}, "−.5", {}),
        ("numeric", {"answer": 3.14159}, "3.14", {"tolerance": 0.01}),
        ("numeric", {"answer": 1e6}, "1.01e6", {"relative": 0.02}),
        ("numeric", {"answer": 7}, "7, since 3 + 4", {"take": "first"}),
        ("regex", {"answer": "B"}, "I think\nAnswer: A\nAnswer: B", {"pattern": r"Answer: (\w)"}),
        ("regex", {"pattern": r"\d{4}-\d\d"}, "on 2026-11", {}),
        ("regex", {}, " yes ", {"pattern": "yes|no", "whole": True}),
        ("choice", {"answer": "C"}, "A is near, but it is C.", {}),
        ("choice", {"answer": 1, "choices": ["red", "dark red"]}, "It is dark red", {}),
        ("choice", {"answer": "no"}, "No", {"choices": ["yes", "no"]}),
        ("choice", {"answer": "B"}, "Not A.\n<answer>\nB\n</answer>\nA", {"tag": "answer"}),
        ("choice", {"answer": "B"}, "<answer>(b)</answer>", {}),
        ("choice", {"answer": "B"}, "<answer>B. Vitamin C</answer>", {}),
        ("choice", {"answer": "B"}, r"so \boxed{\text{B}}, not A", {}),
        ("choice", {"answer": "b", "choices": {"label": ["a", "b"], "text": ["x", "y"]}}, "b", {}),
    ],
)
def test_a_right_response_scores_one_and_says_nothing(
    name: str, row: dict[str, Any], response: str, options: dict[str, Any]
) -> None:
    found = judged(name, row, response, **options)

    assert (found.score, found.text) == (1.0, None)


@pytest.mark.parametrize(
    ("name", "row", "response", "options", "said"),
    [
        ("exact", {"answer": "New York"}, "NewYork", {}, "the answer is New York"),
        ("exact", {"answer": "a b"}, "a  b", {"ignore_space": False}, "the answer is a b"),
        ("numeric", {"answer": 84}, "86", {}, "86 is wrong; the answer is 84"),
        ("numeric", {"answer": 84}, "eighty-four", {}, "there is no number in the response"),
        ("numeric", {"answer": 8}, "8 or 9", {"take": "only"}, "2 numbers instead of one"),
        ("numeric", {"answer": 1}, "v1", {}, "there is no number"),
        ("regex", {"answer": "B"}, "Answer: A", {"pattern": r"Answer: (\w)"}, "'A' is wrong"),
        ("regex", {}, "maybe", {"pattern": "yes|no"}, "does not match yes|no"),
        ("regex", {}, "yes, no", {"pattern": "yes|no", "whole": True}, "does not match"),
        ("choice", {"answer": "C"}, "C? No, A.", {}, "A is wrong; the answer is C"),
        ("choice", {"answer": "no"}, "nothing", {"choices": ["yes", "no"]}, "none of yes, no"),
        ("choice", {"answer": "A"}, "a word", {}, "none of A, B"),
        ("choice", {"answer": "A"}, "It is A.", {"tag": "answer"}, "there is no <answer>"),
        ("choice", {"answer": "A"}, "<answer>A, B</answer>", {}, "B, A are marked, not one"),
        ("choice", {"answer": "A"}, "A <answer>B</answer>", {}, "B is wrong; the answer is A"),
        ("choice", {"answer": "A"}, "A <answer></answer>", {}, "none of A, B"),
    ],
)
def test_a_wrong_response_scores_zero_and_is_told_what_is_wrong(
    name: str, row: dict[str, Any], response: str, options: dict[str, Any], said: str
) -> None:
    found = judged(name, row, response, **options)

    assert found.score == 0.0
    assert said in found.text


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("exact", {"other": 1}),
        ("exact", {"answer": None}),
        ("numeric", {"answer": "no number"}),
        ("numeric", {"answer": True}),
        ("choice", {"answer": "E", "choices": ["A", "B"]}),
        ("choice", {"answer": 5, "choices": ["A", "B"]}),
        ("regex", {}),
    ],
)
def test_a_row_without_an_answer_is_an_error_and_not_a_wrong_response(
    name: str, row: dict[str, Any]
) -> None:
    with pytest.raises((KeyError, ValueError)):
        judged(name, row, "1")


def test_a_response_that_was_cut_off_is_told_so() -> None:
    found = load_judge("numeric")({"answer": 84}, Response("12 and then", "length"))

    assert found.text.startswith("the response was cut off; ")
