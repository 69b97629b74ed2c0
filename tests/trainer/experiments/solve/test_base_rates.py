"""The hard tail is chosen by base rates alone, with enough samples."""

from dataclasses import replace

import pytest

from preceptor_trainer.experiments.solve.base_rates import BASE_RATES, BaseRates, load_base_rates
from preceptor_trainer.tasks.programming_by_example.problems import sample_problems

PROBLEMS = 3


@pytest.fixture(scope="module")
def rates() -> BaseRates:
    problems = sample_problems("train", count=PROBLEMS, seed=5)
    return BaseRates(
        split="train",
        problems_seed=5,
        problem_ids=tuple(problem.id for problem in problems),
        successes_P=(0, 1, 2),
        attempts_P=(128, 32, 32),
        num_samples=128,
        samples_seed=0,
        student_sha256="0",
    )


def test_the_hard_tail_is_below_the_bound_at_pass_at_64(rates):
    # 1 of 128 right: pass@64 is exactly .5; 0 of 128: 0; 2 of 128: above .5
    assert [p.id for p in rates.hard_tail()] == [rates.problem_ids[0]]


def test_a_missing_grade_counts_neither_as_a_success_nor_as_a_failure(rates):
    # 1 of 127 right: pass@64 is 64/127, above .5; of 63 graded attempts nothing can be said
    missing = replace(rates, missing_P=(0, 1, 0))
    lost = replace(rates, missing_P=(65, 0, 0))

    assert [p.id for p in missing.hard_tail()] == [rates.problem_ids[0]]
    assert lost.hard_tail() == []


def test_too_few_samples_choose_no_tail(rates):
    with pytest.raises(ValueError, match="64 are too few to choose a hard tail"):
        replace(rates, num_samples=64).hard_tail()


def test_rates_come_back_from_their_file(tmp_path, rates):
    rates.save(tmp_path / BASE_RATES)

    assert load_base_rates(tmp_path / BASE_RATES, split="train") == rates


def test_rates_of_another_split_are_refused(tmp_path, rates):
    rates.save(tmp_path / BASE_RATES)

    with pytest.raises(ValueError, match="split is 'train', not 'held_out'"):
        load_base_rates(tmp_path / BASE_RATES, split="held_out")


def test_missing_rates_say_how_to_make_them(tmp_path):
    with pytest.raises(ValueError, match="preceptor solve base-rates --split train"):
        load_base_rates(tmp_path / BASE_RATES, split="train")


def test_rates_of_another_world_are_refused(rates):
    with pytest.raises(ValueError, match="the generator of problems has changed"):
        replace(rates, problem_ids=("x", "y", "z")).hard_tail()
