"""Agreement figures against what can be worked out by hand."""

from __future__ import annotations

import pytest

from preceptor_services.corrections.agreement import (
    Double,
    Opinion,
    agreement,
    scotts_pi,
    similarity,
)


def test_agreement_by_chance_alone_is_zero() -> None:
    pairs = [("edit", "edit"), ("edit", "accept"), ("accept", "edit"), ("accept", "accept")]

    assert scotts_pi(pairs) == pytest.approx(0.0)


def test_perfect_agreement_over_several_decisions_is_one() -> None:
    assert scotts_pi([("edit", "edit"), ("accept", "accept")]) == pytest.approx(1.0)


def test_agreement_without_any_choice_is_not_defined() -> None:
    assert scotts_pi([("edit", "edit")] * 3) is None
    assert scotts_pi([]) is None


def test_three_people_on_one_item_are_three_pairs() -> None:
    opinions = (Opinion("edit", "abX"), Opinion("edit", "abY"), Opinion("accept", "abc"))

    found = agreement([Double("abc", opinions)], upheld=[("ann", True), ("ann", False)])

    assert found.pairs == 3
    assert found.same_decision == pytest.approx(1 / 3)
    assert found.same_text == 0.0
    assert found.same_departure == 1.0
    assert found.upheld == {"ann": 0.5}


def test_similarity_counts_characters_in_common() -> None:
    assert similarity("abcd", "abxd") == pytest.approx(6 / 8)
    assert similarity("", "") == 1.0
    assert similarity("aa", "bb") == 0.0
