"""discovery@k against hand-computed tables, and its intervals on synthetic trajectories."""

import numpy as np
import pytest

from preceptor_trainer.experiments.solve.discovery import discovery, discovery_curve
from preceptor_trainer.experiments.solve.trajectory import Trajectory


def trajectory(solved_at=None, attempts=10, *, question="q", seed=0, successes=None, missing=0):
    return Trajectory(
        method="multi-turn" if successes is None else "best-of-k",
        problem_id=question,
        seed=seed,
        attempts=solved_at if solved_at and successes is None else attempts,
        solved_at=solved_at,
        successes=successes,
        tokens=1,
        seconds=1.0,
        missing=missing,
    )


def curve(rows, ks):
    return discovery_curve(rows, ks).tolist()


def test_without_early_censoring_it_is_the_share_of_seeds_solved_by_k():
    rows = [trajectory(2), trajectory(5), trajectory(None), trajectory(None)]

    assert curve(rows, [1, 2, 4, 5, 10]) == pytest.approx([0, 0.25, 0.25, 0.5, 0.5])


def test_kaplan_meier_against_a_worked_example():
    # At 2: 1 of 4 solved. One gave up after 3. At 5: 1 of the 2 still there: S = 3/4 * 1/2.
    rows = [trajectory(2), trajectory(5), trajectory(None, 3), trajectory(None, 10)]

    assert curve(rows, [2, 4, 5, 10]) == pytest.approx([0.25, 0.25, 0.625, 0.625])


def test_a_trajectory_that_ends_at_k_without_success_was_at_risk_there():
    rows = [trajectory(3), trajectory(None, 3)]

    assert curve(rows, [3]) == pytest.approx([0.5])


def test_independent_attempts_give_the_unbiased_pass_at_k():
    # 2 of 10 right: pass@1 = .2, pass@2 = 1 - C(8,2)/C(10,2) = 1 - 28/45
    rows = [trajectory(7, successes=2)]

    assert curve(rows, [1, 2, 10]) == pytest.approx([0.2, 17 / 45, 1.0])


def test_more_attempts_than_were_drawn_are_refused():
    with pytest.raises(ValueError, match="11 is more than the 10 attempts at q"):
        curve([trajectory(7, successes=2)], [11])


def test_curves_are_means_over_questions_and_count_the_solved_ones():
    rows = [trajectory(1, question="easy"), trajectory(None, question="hard")]

    curves, _ = discovery({"multi-turn": rows}, [1, 10])

    found = curves["multi-turn"]
    assert [level.mean for level in found.levels] == pytest.approx([0.5, 0.5])
    assert found.solved_questions == 1
    assert found.mean_attempts == pytest.approx((1 + 10) / 2)


def test_methods_on_different_questions_are_not_compared():
    rows = {"a": [trajectory(1, question="x")], "b": [trajectory(1, question="y")]}

    with pytest.raises(ValueError, match="different questions"):
        discovery(rows, [1])


def test_nothing_is_said_beyond_the_last_attempt_at_a_question():
    rows = [trajectory(None, 10), trajectory(3, question="other")]

    with pytest.raises(ValueError, match=r"20 is beyond the last attempt at \{'q': 10\}"):
        discovery({"multi-turn": rows}, [20])


def test_one_question_says_nothing_about_others():
    with pytest.raises(ValueError, match="at least two"):
        discovery({"multi-turn": [trajectory(3)]}, [5])


def draw(rng, method_chance, num_questions=20, num_seeds=5, last=32):
    """Trajectories with a chance per attempt that differs by question."""
    rows = []
    for q in range(num_questions):
        chance = method_chance * rng.uniform(0.2, 1.8)
        for seed in range(num_seeds):
            first = int(rng.geometric(chance))
            rows.append(
                trajectory(first if first <= last else None, last, question=f"q{q}", seed=seed)
            )
    return rows


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    chances = 0.03 * np.linspace(0.2, 1.8, 2_001)
    truth = float((1 - (1 - chances) ** 16).mean())
    hits = 0
    for _ in range(100):
        curves, _ = discovery({"m": draw(rng, 0.03)}, [16])
        hits += curves["m"].levels[0].low <= truth <= curves["m"].levels[0].high

    assert 90 <= hits <= 99


def test_a_real_difference_is_found():
    rng = np.random.default_rng(1)

    _, differences = discovery({"slow": draw(rng, 0.02), "fast": draw(rng, 0.1)}, [16, 32])

    assert differences["slow - fast"][0].high < 0


def test_equal_methods_are_told_apart_in_about_one_case_of_twenty():
    rng = np.random.default_rng(1)
    told_apart = 0
    for _ in range(60):
        _, differences = discovery({"a": draw(rng, 0.02), "b": draw(rng, 0.02)}, [16])
        told_apart += differences["a - b"][0].p < 0.05

    assert told_apart <= 8


@pytest.mark.parametrize(("solved_at", "attempts"), [(0, 5), (6, 5), (None, 0)])
def test_an_impossible_trajectory_is_refused(solved_at, attempts):
    with pytest.raises(ValueError, match="must be"):
        Trajectory(
            method="test-time",
            problem_id="q",
            seed=0,
            attempts=attempts,
            solved_at=solved_at,
            tokens=0,
            seconds=0.0,
        )


def test_a_missing_grade_leaves_its_seed_out_only_where_too_few_attempts_are_judged():
    rows = [trajectory(None, successes=5, seed=0), trajectory(None, 9, successes=0, missing=1)]

    assert curve(rows, [1, 10]) == pytest.approx([(0.5 + 0) / 2, 1.0])


def test_a_question_without_grades_enough_is_left_out_of_the_mean_with_its_number():
    full = [trajectory(1, successes=5, question=name) for name in "ab"]
    short = [trajectory(None, 9, successes=0, missing=1, question="c")]

    curves, _ = discovery({"best-of-k": [*full, *short]}, [1, 10])

    levels = curves["best-of-k"].levels
    assert [level.num_problems for level in levels] == [3, 2]
    assert [level.mean for level in levels] == pytest.approx([1 / 3, 1.0])


def test_a_number_of_attempts_that_no_two_questions_reached_is_left_out():
    rows = [
        trajectory(None, 9, missing=1, question="a"),
        trajectory(None, 9, missing=1, question="b"),
        trajectory(None, question="c"),
    ]

    curves, _ = discovery({"multi-turn": rows}, [8, 10])

    assert curves["multi-turn"].ks == (8,)
