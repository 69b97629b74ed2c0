"""The claims about the gradient, on the very measurements that the benchmark publishes."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from preceptor_trainer.theory.enumeration import TinyWorld

pytestmark = pytest.mark.usefixtures("one_thread")

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "exact_gradient.py"


@pytest.fixture(scope="module")
def measured() -> ModuleType:
    spec = importlib.util.spec_from_file_location("exact_gradient", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", range(3))
def test_expected_update_is_the_gradient_of_the_stated_objective(measured, seed):
    results = measured.exogenous_feedback(seed)

    assert results["exact"][0] < 1e-5
    assert results["exact, KL-to-go against its own objective"][0] < 1e-5


def test_it_is_also_with_a_stop_token_and_a_truncated_support(measured):
    results = measured.exogenous_feedback(1, TinyWorld(stop=0), num_ids=2)

    assert results["exact"][0] < 1e-5


@pytest.mark.parametrize("variant", ["remaining", "cost times return", "local only", "KL-to-go"])
def test_the_other_forms_are_not_that_gradient(measured, variant):
    _, cosine = measured.exogenous_feedback(0)[variant]

    print(f"{variant}: cosine {cosine:.4f}")  # noqa: T201
    assert cosine < 0.9999


@pytest.mark.parametrize(
    ("seed", "cosine"), [(0, 0.853), (1, 0.935), (2, 0.935), (3, 0.969), (4, 0.992)]
)
def test_cost_times_return_is_farther_off_than_the_local_term_alone(measured, seed, cosine):
    results = measured.exogenous_feedback(seed)

    assert results["cost times return"][1] == pytest.approx(cosine, abs=1e-3)
    assert results["cost times return"][1] < results["local only"][1]


@pytest.mark.parametrize("seed", range(3))
def test_with_feedback_of_the_rollout_only_all_costs_give_the_gradient(measured, seed):
    errors = measured.feedback_of_the_rollout(seed)

    print(f"seed {seed}: gap of later-only credit {errors['later']:.3f}")  # noqa: T201
    assert 0.05 < errors["later"] < 0.5
    assert errors["all"] < 1e-5


@pytest.mark.parametrize("seed", range(2))
def test_all_costs_give_it_too_where_only_failures_have_a_teacher(measured, seed):
    errors = measured.teachers_of_failures(seed)

    assert errors["all, none"] < 1e-5
    assert errors["all, loo"] < 1e-5
    assert errors["later, none"] > 0.05


def test_leave_one_out_is_unbiased_unless_siblings_demonstrate_to_each_other(measured):
    errors = measured.baseline_bias(0)

    assert errors["fixed teacher, loo"] < 1e-12
    assert 0.01 < errors["demonstrations, teachers close, loo"] < 0.1
    assert errors["demonstrations, teachers close, loo_independent"] < 1e-12


def test_independent_siblings_serve_as_baseline_where_there_are_any(measured):
    errors = measured.partly_independent_siblings(0)

    assert errors["loo"] > 0.1
    assert errors["loo_independent"] < 1e-12


def test_leave_one_out_cuts_variance_fivefold_and_a_self_inclusive_mean_shrinks_the_term(measured):
    results = measured.baseline_variance(0, num_groups=300)

    assert results["variance ratio"] > 5
    assert results["slope, loo"] == pytest.approx(1, abs=4 * results["slope's error, loo"])
    # The same draws: the two differ by the factor 1 - 1/G exactly.
    assert results["slope, self-inclusive"] / results["slope, loo"] == pytest.approx(7 / 8)


@pytest.mark.parametrize("seed", range(3))
def test_prefix_weights_give_the_gradient_from_an_older_policys_rollouts(measured, seed):
    results = measured.rollouts_of_an_older_policy(seed)

    assert results["prefix"][0] < 1e-5
    assert results["rollout"][0] < 1e-5
    assert results["prefix"][1] < results["rollout"][1]
    for biased in ("as if sampled now", "local term only", "prefix, cap 1"):
        assert results[biased][0] > 1e-3
    assert results["prefix, cap 2"][0] < results["local term only"][0]


def test_a_bound_is_biased_and_bounds_the_variance_far_from_the_policy(measured):
    results = measured.rollouts_of_an_older_policy(0, drift=1.0)

    assert results["prefix"][0] < 1e-5
    assert 1e-3 < results["prefix, cap 2"][0] < results["local term only"][0]
    assert results["prefix, cap 2"][1] < results["prefix"][1]


def test_a_weighted_baseline_leaves_the_gradient_of_an_older_policys_rollouts(measured):
    errors = measured.older_pairs_with_a_baseline(0, drift=1.0)

    assert errors["inf"] < 1e-5
    assert errors["2.0"] > 1e-4
