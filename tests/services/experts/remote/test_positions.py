"""Claims about which positions an expert with few calls asks about."""

from __future__ import annotations

import numpy as np
import pytest

from preceptor_clients.contract.schemas import FeedbackItem
from preceptor_services.experts.remote.positions import (
    draw,
    entropy_weights,
    feedback_weights,
    inclusion,
)


def remark(text: str) -> FeedbackItem:
    return FeedbackItem(id="fb", kind="comment", text=text, source="judge", version="1")


@pytest.mark.parametrize("weights", [np.ones(9), np.array([1, 1, 1, 2, 4, 8, 30, 0.5, 100])])
def test_each_position_is_drawn_with_its_chance_and_costs_over_it_are_unbiased(weights):
    chances = inclusion(weights, 4)
    costs = np.arange(1.0, 10.0)
    generator = np.random.default_rng(0)

    drawn = np.zeros((4000, 9))
    for row in drawn:
        chosen = draw(chances, generator)
        assert len(chosen) == 4
        row[chosen] = 1

    assert chances.sum() == pytest.approx(4)
    np.testing.assert_allclose(drawn.mean(0), chances, atol=0.03)
    estimates = (drawn * costs / chances).sum(1)
    error = estimates.std() / np.sqrt(len(drawn))
    assert abs(estimates.mean() - costs.sum()) < 4 * error + 1e-9


def test_chances_follow_the_weights_up_to_one():
    np.testing.assert_allclose(inclusion(np.array([1.0, 2.0, 5.0]), 1), [0.125, 0.25, 0.625])
    np.testing.assert_allclose(inclusion(np.array([1.0, 3.0, 96.0]), 2), [0.25, 0.75, 1.0])
    np.testing.assert_array_equal(inclusion(np.ones(3), 5), np.ones(3))


def test_certain_positions_keep_a_chance():
    weights = entropy_weights(np.array([0.0, 0.0, 3.0]))

    assert weights[2] == 3.0
    assert (weights[:2] == 0.1).all()
    np.testing.assert_array_equal(entropy_weights(np.zeros(3)), np.ones(3))


def test_feedback_points_at_lines_that_it_numbers_and_words_that_it_quotes():
    pieces = ["a = ", "1\n", "b", " = two", "\n", "c"]

    by_line = feedback_weights(pieces, [remark("error on line 2")])
    by_quote = feedback_weights(pieces, [remark("what is `two`?")])
    nowhere = feedback_weights(pieces, [remark("wrong, see line 9")])

    assert (by_line > 1).tolist() == [False, False, True, True, True, False]
    assert (by_quote > 1).tolist() == [False, False, False, True, False, False]
    assert (nowhere == 1).all()
