"""Which problems a step trains on."""

import pytest

from preceptor_trainer.recipes.problem_streams import Fixed, Fresh
from preceptor_trainer.recipes.references import reference_texts


def test_an_epoch_meets_every_problem_once(question):
    problems = [question(f"q{i}") for i in range(6)]
    stream = Fixed(problems=problems, per_step=2)(seed=0)

    for epoch in (0, 1):
        met = [p.id for step in range(3) for p in stream(3 * epoch + step)]
        assert sorted(met) == [p.id for p in problems]


def test_the_problems_of_a_step_depend_on_seed_and_step_alone(question):
    fixed = Fixed(problems=[question(f"q{i}") for i in range(12)], per_step=4)

    orders = {tuple(p.id for p in fixed(seed)(0)) for seed in range(5)}

    assert fixed(3)(7) == fixed(3)(7)
    assert len(orders) > 1


def test_a_step_larger_than_the_set_is_refused(question):
    with pytest.raises(ValueError, match="per_step: must be 1 to 1, not 2"):
        Fixed(problems=[question("q")], per_step=2)


def test_fresh_problems_differ_from_step_to_step():
    stream = Fresh(per_step=2)(seed=0)

    assert {p.id for p in stream(0)}.isdisjoint(p.id for p in stream(1))


def test_a_problem_without_a_reference_is_refused(question):
    with pytest.raises(ValueError, match="'q' has no reference"):
        reference_texts(question("q"))
