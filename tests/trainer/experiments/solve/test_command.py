"""`preceptor solve run`: what cannot be done is said before a service starts."""

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from preceptor_trainer.experiments.solve.base_rates import BASE_RATES, BaseRates, student_sha256
from preceptor_trainer.experiments.solve.command import app
from preceptor_trainer.student import STUDENT_DIR
from preceptor_trainer.tasks.programming_by_example.problems import sample_problems


@pytest.fixture(scope="module")
def rates() -> BaseRates:
    problems = sample_problems("held_out", count=3, seed=5)
    return BaseRates(
        split="held_out",
        problems_seed=5,
        problem_ids=tuple(problem.id for problem in problems),
        successes_P=(0, 90, 0),
        attempts_P=(128, 128, 128),
        num_samples=128,
        samples_seed=0,
        student_sha256=student_sha256(STUDENT_DIR),
    )


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # no broken lines in the messages

    def run(rates: BaseRates | None, *words: str) -> str:
        if rates is not None:
            rates.save(tmp_path / BASE_RATES)
        result = CliRunner().invoke(app, ["run", "--out", str(tmp_path), *words])
        assert result.exit_code == 2, result.output
        assert not (tmp_path / "preceptor.toml").exists(), "a deployment was made"
        return " ".join(result.output.replace("│", " ").split())

    return run


def test_without_base_rates_it_says_how_to_measure_them(run):
    assert "preceptor solve base-rates --split held_out --out" in run(None)


def test_base_rates_of_another_student_are_refused(run, rates):
    other = replace(rates, student_sha256="0" * 64)

    assert "these base rates are of another student" in run(other)


def test_too_few_samples_choose_no_questions(run, rates):
    few = replace(rates, num_samples=90)

    assert "num_samples: 90 are too few to choose a hard tail" in run(few)


def test_a_method_that_there_is_not_is_named_with_those_that_there_are(run, rates):
    said = run(rates, "--method", "guess")

    assert "'guess' is not one of best-of-k, multi-turn, test-time" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lr", "0"], "lr: must be positive, not 0.0"),
        (["--questions", "1"], "'--questions'"),
    ],
)
def test_a_senseless_option_is_named(run, rates, words, said):
    assert said in run(rates, *words)


def test_a_tail_of_one_question_is_refused_before_it_is_attempted(run, rates):
    one = replace(rates, successes_P=(0, 90, 60))

    assert "1 of 3 are in the hard tail; at least two are needed" in run(one)
