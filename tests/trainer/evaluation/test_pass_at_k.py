from itertools import combinations

import numpy as np
import pytest

from preceptor_trainer.evaluation.pass_at_k import mean_interval, paired_difference, pass_at_k


@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_subsets_with_a_success(k):
    rng = np.random.default_rng(0)
    successes_PN = rng.random((6, 8)) < [[0], [0.1], [0.3], [0.5], [0.9], [1]]

    result = pass_at_k(successes_PN, k)

    by_counting = [
        np.mean([row[list(subset)].any() for subset in combinations(range(8), k)])
        for row in successes_PN
    ]
    np.testing.assert_allclose(result, by_counting)


def test_pass_at_k_is_unbiased_for_fresh_samples():
    chance, num_samples, k = 0.2, 6, 3
    from math import comb

    expected = sum(
        comb(num_samples, c)
        * chance**c
        * (1 - chance) ** (num_samples - c)
        * pass_at_k([[1] * c + [0] * (num_samples - c)], k)[0]
        for c in range(num_samples + 1)
    )

    assert expected == pytest.approx(1 - (1 - chance) ** k)


def test_pass_at_k_keeps_leading_seeds_and_problems():
    assert pass_at_k(np.ones((2, 5, 4)), 2).shape == (2, 5)


@pytest.mark.parametrize("k", [0, 5])
def test_k_beyond_the_samples_is_refused(k):
    with pytest.raises(ValueError, match=f"not {k}"):
        pass_at_k([[0, 1, 1, 0]], k)


def test_scores_are_no_successes():
    with pytest.raises(ValueError, match="0 or 1"):
        pass_at_k([[0.5, 1.0]], 1)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).random(50)

    first, again, other = (
        mean_interval(values, seed=seed, num_resamples=500) for seed in (3, 3, 4)
    )

    assert first == again
    assert first != other


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    intervals = [mean_interval(rng.random(60) < 0.3, seed=i, num_resamples=400) for i in range(300)]

    covered = np.mean([interval.low <= 0.3 <= interval.high for interval in intervals])

    assert 0.9 < covered < 0.99


def test_pairing_removes_the_spread_between_problems():
    rng = np.random.default_rng(0)
    difficulty = rng.random(200)
    before, after = difficulty, difficulty + 0.1 + 0.01 * rng.normal(size=200)

    paired = paired_difference(before, after, seed=0, num_resamples=2000)

    assert paired.low > 0.09
    assert paired.high - paired.low < 0.1 * _width(mean_interval(after, seed=0, num_resamples=2000))


def test_no_difference_has_no_width():
    values = np.random.default_rng(0).random((3, 20))

    interval = paired_difference(values, values, seed=0, num_resamples=2000)

    assert (interval.mean, interval.low, interval.high) == (0, 0, 0)


def test_disagreeing_seeds_widen_the_interval():
    rng = np.random.default_rng(0)
    problems = rng.normal(size=100)
    agreeing = np.stack([problems] * 5)
    disagreeing = agreeing + np.array([-1, -0.5, 0, 0.5, 1])[:, None]

    widths = [
        _width(mean_interval(values, seed=0, num_resamples=2000))
        for values in (agreeing, disagreeing)
    ]

    assert widths[1] > 2 * widths[0]


def test_more_seeds_do_not_hide_the_spread_of_shared_problems():
    """Every seed meets the same problems: copies of one seed are no new evidence."""
    problems = np.random.default_rng(0).normal(size=100)

    one = mean_interval(problems, seed=0, num_resamples=2000)
    copies = mean_interval(np.stack([problems] * 5), seed=0, num_resamples=2000)

    assert _width(copies) == pytest.approx(_width(one), rel=0.1)


def test_unpaired_shapes_are_refused():
    with pytest.raises(ValueError, match="not paired"):
        paired_difference([0.1, 0.2], [0.3], seed=0, num_resamples=2000)


def _width(interval) -> float:
    return interval.high - interval.low
