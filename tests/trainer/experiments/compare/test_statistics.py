"""Coverage on synthetic data, Holm against a worked example, and pairing."""

import numpy as np
import pytest

from preceptor_trainer.evaluation.pass_at_k import pass_at_k
from preceptor_trainer.experiments.compare.statistics import (
    bootstrap_means,
    correct,
    estimate,
    from_counts,
    holm,
)

NUM_DATA_SETS = 300


def synthetic(rng, *, seed_sd, problem_sd, noise_sd, num_seeds=5, num_problems=40, mean=0.1):
    """[S, P] with a part of the seed, a part of the problem, and noise."""
    return (
        mean
        + rng.normal(0, seed_sd, (num_seeds, 1))
        + rng.normal(0, problem_sd, (1, num_problems))
        + rng.normal(0, noise_sd, (num_seeds, num_problems))
    )


def coverage(interval_of, **parts):
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(NUM_DATA_SETS):
        low, high = interval_of(synthetic(rng, **parts))
        hits += low <= 0.1 <= high
    return hits / NUM_DATA_SETS


def ours(values):
    found = estimate(values, seed=0, num_resamples=400)
    return found.low, found.high


def percentile(values):
    means = bootstrap_means(values, seed=0, num_resamples=400)
    return np.quantile(means, [0.025, 0.975])


@pytest.mark.parametrize(
    "parts",
    [
        {"seed_sd": 0.1, "problem_sd": 0.0, "noise_sd": 0.05},  # seeds decide: 4 degrees of freedom
        {"seed_sd": 0.0, "problem_sd": 0.3, "noise_sd": 0.1},  # problems decide
        {"seed_sd": 0.05, "problem_sd": 0.3, "noise_sd": 0.2},  # both
    ],
)
def test_intervals_cover_the_truth_as_often_as_they_say(parts):
    # 300 data sets: the standard error of a coverage of 95 % is 1.3 %
    assert 0.915 <= coverage(ours, **parts) <= 0.99


def test_the_percentile_interval_would_be_too_narrow_with_five_seeds():
    parts = {"seed_sd": 0.1, "problem_sd": 0.0, "noise_sd": 0.05}

    assert coverage(percentile, **parts) < 0.88 < coverage(ours, **parts)


def test_the_standard_error_is_the_textbook_s_where_only_seeds_differ():
    seeds = np.array([0.1, 0.2, 0.4, 0.5, 0.8])
    values = np.repeat(seeds[:, None], 30, axis=1)

    found = estimate(values, seed=0, num_resamples=20_000)

    assert found.dof == pytest.approx(4)
    assert found.standard_error == pytest.approx(seeds.std(ddof=1) / np.sqrt(5), rel=0.02)


@pytest.mark.parametrize(("level", "printed"), [(0.95, 2.776), (0.99, 4.604), (0.999, 8.610)])
def test_five_seeds_reach_as_far_as_the_printed_table_of_student_s_t_says(level, printed):
    values = np.repeat([[0.1], [0.2], [0.4], [0.5], [0.8]], 30, axis=1)

    found = estimate(values, seed=0)

    low, high = found.at_level(level)
    assert (high - low) / 2 / found.standard_error == pytest.approx(printed, abs=5e-4)


def test_p_of_two_degrees_of_freedom_has_a_closed_form():
    values = np.repeat([[0.1], [0.2], [0.4]], 30, axis=1)

    found = estimate(values, seed=0)

    t = found.mean / found.standard_error
    assert found.p == pytest.approx(1 - t / np.sqrt(2 + t * t), abs=1e-12)


def test_one_seed_has_the_degrees_of_freedom_of_its_problems():
    values = np.random.default_rng(0).normal(size=(1, 25))

    found = estimate(values, seed=0, num_resamples=20_000)

    assert found.dof == pytest.approx(24)
    assert found.standard_error == pytest.approx(values.std(ddof=1) / 5, rel=0.02)


def test_p_is_below_alpha_exactly_where_the_interval_excludes_zero():
    values = synthetic(np.random.default_rng(3), seed_sd=0.1, problem_sd=0.1, noise_sd=0.1)
    found = estimate(values, seed=0)

    touching = found.at_level(1 - found.p)

    assert min(abs(bound) for bound in touching) < 1e-6
    assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


def test_pairing_takes_out_what_seeds_and_problems_share():
    rng = np.random.default_rng(1)
    common = synthetic(rng, seed_sd=0.2, problem_sd=0.4, noise_sd=0.0)
    first, second = common + 0.05, common + rng.normal(0, 0.02, common.shape)

    paired = estimate(first - second, seed=0)
    alone = estimate(first, seed=0)

    assert paired.low > 0
    assert paired.standard_error < alone.standard_error / 10


def test_no_difference_anywhere_is_no_evidence():
    found = estimate(np.zeros((3, 4)), seed=0)

    assert (found.low, found.high, found.p) == (0, 0, 1)


def test_a_missing_outcome_is_refused():
    with pytest.raises(ValueError, match="finite"):
        estimate([[0.1, float("nan")]], seed=0)


def test_holm_against_a_worked_example():
    # m = 4: 0.005 x 4 = 0.02, 0.01 x 3 = 0.03, 0.03 x 2 = 0.06, 0.04 x 1 = 0.04 -> raised to 0.06
    adjusted = holm({"d": 0.04, "a": 0.005, "c": 0.03, "b": 0.01})

    assert adjusted == pytest.approx({"a": 0.02, "b": 0.03, "c": 0.06, "d": 0.06})


def test_an_adjusted_p_value_is_at_most_one():
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_a_claim_needs_its_corrected_interval_to_exclude_zero():
    rng = np.random.default_rng(5)
    family = {
        f"m{i}": estimate(rng.normal(mean, 0.3, (5, 40)), seed=0)
        for i, mean in enumerate([0.0, 0.02, 0.05, 0.11, 0.3])
    }

    found = correct(family)

    claimed = {name for name, one in found.items() if one.claimed}
    assert claimed == {name for name, one in found.items() if one.low > 0 or one.high < 0}
    assert "m4" in claimed
    assert "m0" not in claimed
    assert all(one.high - one.low >= one.estimate.high - one.estimate.low for one in found.values())


def test_under_no_effect_a_family_claims_something_in_about_one_case_of_twenty():
    rng = np.random.default_rng(2)
    claims = 0
    for _ in range(100):
        family = {
            str(i): estimate(
                synthetic(rng, seed_sd=0.05, problem_sd=0.1, noise_sd=0.1, mean=0.0),
                seed=0,
                num_resamples=200,
            )
            for i in range(6)
        }
        claims += any(one.claimed for one in correct(family).values())

    assert claims <= 12


def test_counts_give_the_pass_at_k_of_their_samples():
    outcomes = np.array([[0, 1, 0, 1], [0, 0, 0, 0]])

    rebuilt = from_counts(outcomes.sum(1), 4)

    for k in (1, 2, 4):
        assert pass_at_k(rebuilt, k) == pytest.approx(pass_at_k(outcomes, k))


def test_a_count_above_the_number_of_samples_is_refused():
    with pytest.raises(ValueError, match="counts of 0 to 4"):
        from_counts([5], 4)
