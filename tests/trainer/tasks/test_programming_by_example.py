"""The world: its language, its problems and its splits."""

import json
import random
from itertools import islice

import pytest

from preceptor_clients.contract.execution import ExecutionTask, feedback_text
from preceptor_trainer.tasks.programming_by_example.behaviour import (
    PROBES,
    RAISES,
    Split,
    behaviour_of,
    split_of,
)
from preceptor_trainer.tasks.programming_by_example.language import (
    MAX_CHARS,
    Comp,
    Fold,
    Order,
    Program,
    mutate,
)
from preceptor_trainer.tasks.programming_by_example.problems import (
    NUM_HIDDEN,
    NUM_SHOWN,
    evaluate,
    sample_problems,
    stream_problems,
)
from preceptor_trainer.tasks.programming_by_example.universe import load_universe

SPLITS: tuple[Split, ...] = ("train", "validation", "held_out")


@pytest.mark.parametrize(
    ("stages", "text"),
    [
        ((Comp("v*2", "v>1"), Order("[::-1]")), "[v*2 for v in x if v>1][::-1]"),
        ((Comp("v+1"), Fold("sum")), "sum(v+1 for v in x)"),
        ((Comp("v+1"), Order("[1:]"), Fold("max")), "max([v+1 for v in x][1:])"),
        ((Order("[:2]"), Comp("-v"), Order("sorted")), "sorted(-v for v in x[:2])"),
        ((Comp("v", "v%2"), Fold("len")), "len([v for v in x if v%2])"),
        ((Order("sorted-down"), Fold("max")), "max(sorted(x)[::-1])"),
    ],
)
def test_a_program_reads_as_python(stages: tuple[Comp | Order | Fold, ...], text: str) -> None:
    assert Program(stages).text() == text
    assert RAISES not in behaviour_of(text)[-5:]


def test_every_text_is_short_and_defined_on_most_probes() -> None:
    universe = load_universe()

    assert len(universe.behaviours) > 5000
    assert all(len(text) <= MAX_CHARS for text in universe.by_text)
    assert all(b.values.count(RAISES) <= 8 for b in universe.behaviours)


def test_a_behaviour_has_one_split_however_it_is_written() -> None:
    first, second = behaviour_of("sorted(x)[::-1]"), behaviour_of("sorted(x,reverse=False)[::-1]")

    assert first == second == behaviour_of("[v for v in sorted(x)[::-1]]")
    assert split_of(first) == split_of(second)


def test_kinds_of_exceptions_do_not_part_behaviours() -> None:
    assert behaviour_of("max(x)") == behaviour_of("sorted(x)[-1]")


def test_splits_share_no_behaviour() -> None:
    universe = load_universe()

    values = {split: {b.values for b in universe.in_split(split)} for split in SPLITS}

    assert not values["train"] & values["held_out"]
    assert not values["train"] & values["validation"]
    assert not values["validation"] & values["held_out"]
    assert all(split_of(v) == split for split in SPLITS for v in values[split])


def test_probes_are_committed_lists_of_small_integers() -> None:
    assert len(PROBES) == len(set(PROBES)) == 32
    assert all(len(probe) <= 6 and all(-9 <= v <= 20 for v in probe) for probe in PROBES)


@pytest.mark.parametrize(
    ("split", "count", "num_behaviours"), [("held_out", 300, 150), ("validation", 100, 40)]
)
def test_there_are_enough_problems_of_many_behaviours(
    split: Split, count: int, num_behaviours: int
) -> None:
    problems = sample_problems(split, count=count, seed=0)

    # The validation split is a third of the held-out one, and has few behaviours of one feature.
    assert len({problem.behaviour.values for problem in problems}) >= num_behaviours
    assert len({problem.id for problem in problems}) == count
    assert all(split_of(behaviour_of(problem.reference)) == split for problem in problems)


def test_thousands_of_training_problems_are_there() -> None:
    problems = list(islice(stream_problems("train", random.Random(1)), 4000))

    assert len({problem.id for problem in problems}) == 4000
    assert len({problem.behaviour.values for problem in problems}) > 500


def test_asking_for_too_many_problems_is_refused() -> None:
    with pytest.raises(ValueError, match="validation has too few behaviours"):
        sample_problems("validation", count=10_000, seed=0)


def test_the_same_seed_gives_the_same_problems() -> None:
    first = sample_problems("train", count=20, seed=3)

    assert first == sample_problems("train", count=20, seed=3)
    assert first != sample_problems("train", count=20, seed=4)


def test_the_reference_solves_and_a_near_miss_is_told_what_it_missed() -> None:
    rng = random.Random(0)
    failures = 0

    for problem in islice(stream_problems("train", rng), 200):
        attempt = evaluate(mutate(problem.program, rng).text(), problem)
        failures += not attempt.solved
        assert evaluate(problem.reference, problem).solved
        assert bool(feedback_text(attempt)) == (not attempt.solved)

    assert failures > 100


def test_a_problem_shows_three_pairs_and_hides_six() -> None:
    for problem in sample_problems("validation", count=50, seed=0):
        inputs = [tuple(given) for given, _ in problem.shown + problem.hidden]
        content = problem.messages[0]["content"]

        assert (len(problem.shown), len(problem.hidden)) == (NUM_SHOWN, NUM_HIDDEN)
        assert len(set(inputs)) == NUM_SHOWN + NUM_HIDDEN
        assert all(len(given) <= 6 and all(-9 <= v <= 20 for v in given) for given in inputs)
        assert len(content.split("\n")) == NUM_SHOWN
        assert problem.reference not in content


def test_the_payload_is_the_executors_task() -> None:
    problem = sample_problems("train", count=1, seed=0)[0]

    task = ExecutionTask.model_validate_json(json.dumps(problem.payload))

    assert task == problem.task
    assert task.hidden[0].input == problem.hidden[0][0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x[", "SyntaxError: '[' was never closed"),
        ("y", "NameError: name 'y' is not defined"),
        ("x[99]", "IndexError: list index out of range"),
        ("open('f')", "NameError: name 'open' is not defined"),
        ("2if x else 3", "not 2"),
    ],
)
def test_a_broken_attempt_is_reported_and_not_raised(text: str, words: str) -> None:
    problem = sample_problems("train", count=1, seed=0)[0]

    report = evaluate(text, problem)

    assert not report.solved
    assert words in feedback_text(report)
