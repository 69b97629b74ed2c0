"""Claims about puzzles of knights and knaves."""

from __future__ import annotations

from typing import Any

import pytest

from preceptor_clients.sdk import Response
from preceptor_services.feedback.verifiers.knights_and_knaves import knights_and_knaves

LINES = {"answer": "(1) Ella is a knight\n(2) Mary Ann is a knave\n(3) Bo is a knight"}
FLAGS = {"answer": [True, False, True], "names": ["Ella", "Mary Ann", "Bo"]}
ROLES = {"answer": {"Ella": "Knight", "Mary Ann": "knave", "Bo": True}}
RIGHT = "<answer>(1) Ella is a knight\n(2) Mary Ann is a knave\n(3) Bo is a knight</answer>"


@pytest.mark.parametrize("row", [LINES, FLAGS, ROLES], ids=["lines", "list", "object"])
@pytest.mark.parametrize(
    "response",
    [
        RIGHT,
        f"If Ella is a knave, then Bo is a knave; no.\n{RIGHT}",
        "Say Ella is a knave; no. **Ella** is a **knight**. Mary Ann: knave. Bo must be a Knight.",
    ],
)
def test_everybody_in_the_right_role_scores_one(row: dict[str, Any], response: str) -> None:
    found = knights_and_knaves(row, Response(response))

    assert (found.score, found.text) == (1.0, None)


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (RIGHT.replace("Bo is a knight", "Bo is a knave"), "Bo is a knight, not a knave"),
        (RIGHT.replace("Bo", "Bob"), "nothing is said of Bo, who is a knight"),
        (RIGHT.replace("</answer>", " Ella is a knave</answer>"), "Ella is said to be both"),
        ("Ella is a knight", "nothing is said of Mary Ann, who is a knave; nothing is said of Bo"),
        (f"{RIGHT}<answer>later</answer>", "nothing is said of Ella"),
    ],
)
def test_a_wrong_role_scores_zero_and_is_named(response: str, said: str) -> None:
    found = knights_and_knaves(LINES, Response(response))

    assert found.score == 0.0
    assert said in str(found.text)


def test_other_words_for_the_roles_are_those_of_the_row() -> None:
    row = {**FLAGS, "knight_knave": {"knight": "sage", "knave": "fool", "a_knight": "a sage"}}

    right = knights_and_knaves(row, Response("Ella is a sage, Mary Ann is a fool, Bo is a sage"))

    assert right.score == 1.0
    assert "who is a sage" in str(knights_and_knaves(row, Response("Ella is a knight")).text)


@pytest.mark.parametrize(
    "row", [{}, {"answer": "no roles"}, {"answer": "A is a spy"}, {"answer": [True], "names": []}]
)
def test_a_row_without_a_solution_is_an_error(row: dict[str, Any]) -> None:
    with pytest.raises((KeyError, ValueError)):
        knights_and_knaves(row, Response(RIGHT))
