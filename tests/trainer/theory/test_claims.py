"""The page's sentences as claims, each against something other than the formula that it states."""

import numpy as np
import pytest

from preceptor_trainer.theory import bandits, improvement, length, likelihood

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("loss", bandits.LOSSES)
def test_covariance_form_is_the_slope_of_the_reward_along_a_natural_step(loss):
    (pi, q), step = bandits.REVERSE_FAILS, 1e-6
    moved = pi * np.exp(-step * bandits.derivative(loss, pi, q))

    slope = (moved / moved.sum() - pi) @ bandits.REWARD / step

    gain = bandits.natural_gain(loss, pi, q, bandits.REWARD)
    assert slope == pytest.approx(float(gain), abs=1e-4)


@pytest.mark.parametrize("loss", bandits.LOSSES)
def test_changes_of_log_probs_are_those_of_a_small_natural_step(loss):
    (pi, q), step = bandits.REVERSE_FAILS, 1e-6
    moved = pi * np.exp(-step * bandits.derivative(loss, pi, q))

    slopes = np.log(moved / moved.sum() / pi) / step

    np.testing.assert_allclose(slopes, bandits.natural_velocity(loss, pi, q), atol=1e-4)


def test_reverse_kl_raises_the_worst_arm_and_lowers_the_best(found):
    numbers = found["bandits"].numbers

    step = "A: natural step, reverse KL, log-prob of the"
    assert numbers[f"{step} worst arm"] == pytest.approx(0.105, abs=5e-4)
    assert numbers[f"{step} best arm"] == pytest.approx(-0.829, abs=5e-4)
    assert numbers["A: natural step, forward CE, log-prob of the worst arm"] < 0


def test_better_teacher_lowers_the_reward_under_reverse_kl_and_jsd_only(found):
    numbers = found["bandits"].numbers

    assert numbers["A: reward of the teacher"] > numbers["A: reward of the policy"]
    for step in ("natural", "logit"):
        assert numbers[f"A: {step} step, forward CE"] > 0
        assert numbers[f"A: {step} step, reverse KL"] < 0
        assert numbers[f"A: {step} step, JSD"] < 0


def test_natural_step_of_forward_ce_never_makes_a_problem_worse_and_logit_steps_do(found):
    numbers = found["bandits"].numbers

    assert numbers["share made worse, natural step, forward CE"] == 0
    assert numbers["share made worse, logit step, forward CE"] > 0.05
    assert numbers["share made worse, Adam step, forward CE"] > 0.05


def test_objective_itself_takes_the_logit_step_that_loses(found):
    numbers = found["bandits"].numbers

    own = numbers["B: logit step, the trainer's DistIL"]
    assert own == pytest.approx(numbers["B: logit step, forward CE"], abs=1e-6)
    assert own < 0 < numbers["B: natural step, forward CE"]


def test_gain_on_trees_is_the_slope_of_the_return_along_a_natural_step():
    trees, step = improvement.Trees.random(1, horizon=4, num_actions=2), 1e-6
    moved = [pi + step * (q - pi) for pi, q in zip(trees.pi, trees.q, strict=True)]

    difference = improvement.returns(moved, trees.leaves) - improvement.returns(
        trees.pi, trees.leaves
    )

    gain = improvement.natural_gain("forward CE", trees)
    np.testing.assert_allclose(difference / step, gain, atol=1e-4)
    np.testing.assert_allclose(improvement.teacher_advantage(trees), gain, atol=1e-12)


@pytest.mark.parametrize("size", ["H=2", "H=4"])
def test_better_teacher_does_not_imply_the_condition_which_implies_improvement(found, size):
    numbers = found["improvement"].numbers

    assert numbers[f"{size}: of these, teacher's advantage on student states is negative"] > 0.1
    assert numbers[f"{size}: better teacher and condition, made worse by forward CE"] == 0
    assert numbers[f"{size}: better teacher and condition, made worse by reverse KL"] > 0.05
    assert numbers[f"{size}: violations of the regret bound"] == 0


def test_distil_leaves_the_tokenwise_fixed_point_only_with_ce_to_go(found):
    numbers = found["two_step"].numbers
    at_the_match = "gradient on L's logit where the teacher is matched"

    assert numbers[f"tokenwise: {at_the_match}"] == 0
    assert numbers[f"KL-to-go: {at_the_match}"] == 0
    assert numbers[f"CE-to-go: {at_the_match}"] < -0.3
    assert numbers["tokenwise: success"] == pytest.approx(0.62, abs=1e-3)
    assert numbers["CE-to-go: success"] == pytest.approx(0.804, abs=1e-3)


def test_distil_ends_at_the_fixed_point_found_by_bisection(found):
    numbers = found["two_step"].numbers

    reference = numbers["fixed point of CE-to-go by bisection: P(L)"]
    assert numbers["CE-to-go: P(L)"] == pytest.approx(reference, abs=1e-4)


@pytest.mark.parametrize("floor", length.FLOORS)
def test_ce_to_go_settles_at_the_least_cost_per_response_on_a_grid(floor):
    grid = np.linspace(0.01, 0.99, 9801)
    costs = [length.cost(float(s), floor) / s for s in grid]

    assert length.settled_sum(floor) == pytest.approx(grid[np.argmin(costs)], abs=1e-3)


def test_distil_pushes_towards_stopping_at_equality_unless_entropy_is_subtracted(found):
    numbers = found["length"].numbers
    push = "DistIL's push on the stop logit at equality"

    assert numbers[f"{push}, CE-to-go"] == pytest.approx(length.expected_push(), rel=1e-4)
    assert 0 < numbers[f"{push}, mean of later CE"] < numbers[f"{push}, CE-to-go"]
    assert numbers[f"{push}, KL-to-go"] == numbers[f"{push}, tokenwise"] == 0


def test_leave_one_out_leaves_the_length_bias_where_it_is(found):
    numbers = found["length"].numbers

    pairs = "DistIL on pairs, h=0, CE-to-go"
    with_it = numbers[f"{pairs}, leave-one-out: settled stop chance"]
    without = numbers[f"{pairs}, no baseline: settled stop chance"]
    assert with_it == pytest.approx(without, abs=1e-4)
    assert with_it == pytest.approx(0.35, abs=2e-3)
    # it did something: the updates themselves differ
    variances = [
        numbers[f"{pairs}, {name}: variance of its update there"] for name in length.BASELINES
    ]
    assert variances[1] != pytest.approx(variances[0], rel=0.1)


def test_distil_at_the_bayes_teacher_is_the_gradient_of_log_success():
    local, log_success = likelihood.gradients_at_bayes(1, seed=7)

    np.testing.assert_allclose(local, log_success, atol=1e-6)


def test_with_several_decisions_it_is_a_reweighting_of_states():
    local, log_success = likelihood.gradients_at_bayes(3, seed=7)

    # one factor per state: the chance to succeed from it, over that of the whole
    for here, there in zip(local, log_success, strict=True):
        scale = (here @ there) / (here @ here)
        np.testing.assert_allclose(scale * here, there, atol=1e-6)
        assert scale > 0


def test_later_costs_are_exact_for_given_feedback_only(found):
    numbers = found["feedback"].numbers

    for seed in range(4):
        assert numbers[f"feedback given, later costs, seed {seed}: relative error"] < 1e-6
        assert numbers[f"feedback caused, later costs, seed {seed}: relative error"] > 0.1
        assert numbers[f"feedback caused, all costs, seed {seed}: relative error"] < 1e-6
