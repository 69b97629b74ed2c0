"""Problems of which no attempt succeeds: found, kept, and made again."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from preceptor_trainer.experiments.solve import never_solved
from preceptor_trainer.experiments.solve.never_solved import (
    NeverSolved,
    chances,
    find_never_solved,
    load_never_solved,
)
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.recipes.comparisons import all_fail
from preceptor_trainer.student import STUDENT_DIR
from preceptor_trainer.tasks.programming_by_example.problems import evaluate


@pytest.fixture(scope="module")
def found() -> Iterator[NeverSolved]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(never_solved, "AT_ONCE", 4)  # two are wanted
        patch.setattr(never_solved, "DRAWS", 1)
        yield find_never_solved("train", 2, attempts=32)


def test_what_is_found_is_unlikely_and_has_known_answers(found: NeverSolved) -> None:
    problems = found.problems()

    assert [p.id for p in problems] == list(found.problem_ids)
    assert len(problems) == 2
    assert max(chances(Policy(STUDENT_DIR), problems)) < found.chance_below
    assert all(evaluate(p.behaviour.texts[0], p).solved for p in problems)


def test_they_come_back_from_their_file_and_are_a_training_set(
    found: NeverSolved, tmp_path: Path
) -> None:
    found.save(tmp_path)

    comparison = all_fail(tmp_path)

    assert load_never_solved(tmp_path, split="train") == found
    assert list(comparison.setting.held_out.problems) == found.problems()


def test_those_of_another_student_are_refused(found: NeverSolved, tmp_path: Path) -> None:
    replace(found, student_sha256="0").save(tmp_path)

    with pytest.raises(ValueError, match="another student"):
        load_never_solved(tmp_path, split="train")


def test_attempts_are_counted_as_they_are_made() -> None:
    with pytest.raises(ValueError, match="40 is not a multiple of 32"):
        find_never_solved("train", 1, attempts=40)


def test_missing_ones_say_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="preceptor solve never-solved --split train"):
        load_never_solved(tmp_path, split="train")


def test_those_of_another_world_are_refused(found: NeverSolved, tmp_path: Path) -> None:
    text = found.save(tmp_path).read_text().replace(found.problem_ids[0], "of-another-world")
    (tmp_path / "never-solved-train.json").write_text(text)

    with pytest.raises(ValueError, match="the generator of problems has changed"):
        load_never_solved(tmp_path, split="train").problems()
