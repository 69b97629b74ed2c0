"""One missing grade in an evaluation is a missing grade: counted, shown, and no end of the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from preceptor_trainer.evaluation.held_out import (
    Evaluation,
    EvaluationConfig,
    evaluate,
    paired_gain,
)
from preceptor_trainer.evaluation.pass_at_k import pass_at_k

PROBLEMS: Any = [
    SimpleNamespace(id=name, payload={}, messages=[{"role": "user", "content": f"{name}?"}])
    for name in "ab"
]


class TwoTexts:
    """A student that answers every problem with `num_samples` texts of its own."""

    async def rollouts(self, request: Any) -> list[Any]:
        return [
            SimpleNamespace(
                rollout_id=f"{problem.id}{n}",
                group=group,
                problem=problem,
                response_text=f"text {n}",
                finish_reason="stop",
                response_ids=np.ones(n + 1, np.int32),
                failure=None,
                episode=None,
            )
            for group, problem in enumerate(request.problems)
            for n in range(request.num_samples)
        ]


class Grader:
    """Solves what is in `solved`; has no grade for what is in `lost`."""

    def __init__(self, solved: str, lost: str) -> None:
        self.solved, self.lost = solved.split(), lost.split()
        self.dropped = Counter({"deadline-exceeded": len(self.lost)})

    async def put_payload(self, payload: Any) -> str:
        return "0" * 64

    async def feedback(self, rollouts: Sequence[Any]) -> list[Any]:
        return [
            SimpleNamespace(
                rollout=rollout,
                items=(),
                score=None if rollout.rollout_id in self.lost else 1.0,
                solved=rollout.rollout_id in self.solved,
            )
            for rollout in rollouts
        ]


async def evaluated(solved: str, lost: str = "", ks: tuple[int, ...] = (1, 2)) -> Evaluation:
    return await evaluate(
        EvaluationConfig(problems=PROBLEMS, num_samples=3, ks=ks),
        TwoTexts(),  # type: ignore[arg-type]
        Grader(solved, lost),  # type: ignore[arg-type]
        weights="r/l0/0",
        seed=0,
        on_progress=lambda done, total: None,
    )


async def test_an_answer_without_a_grade_is_shown_as_neither_right_nor_wrong() -> None:
    found = await evaluated("a0", lost="a1")

    assert [(s.problem, s.prompt, s.response, s.solved) for s in found.samples[:3]] == [
        ("a", "a?", "text 0", True),
        ("a", "a?", "text 1", None),
        ("a", "a?", "text 2", False),
    ]


async def test_a_missing_grade_counts_neither_way() -> None:
    found = await evaluated("a0 b0 b1", lost="a1")

    assert found.num_ungraded == 1
    assert found.solved_share == pytest.approx(3 / 5)
    np.testing.assert_allclose(found.pass_at(1), [1 / 2, 2 / 3])
    np.testing.assert_allclose(found.pass_at(2), [1.0, 1.0])
    assert found.summary((1,), seed=0)["ungraded"] == 1
    assert found.summary((1,), seed=0)["pass@1"]["mean"] == pytest.approx((1 / 2 + 2 / 3) / 2)


async def test_a_problem_with_too_few_grades_has_no_estimate_and_the_others_keep_theirs() -> None:
    before, after = await evaluated("a0", lost="b0 b1"), await evaluated("a0 a1 b0")

    assert np.isnan(before.pass_at(2)).tolist() == [False, True]
    assert paired_gain(before, after, 2, seed=0).mean == pytest.approx(1.0 - 2 / 3)
    assert before.summary((1, 2), seed=0)["pass@2"]["mean"] == pytest.approx(2 / 3)


async def test_where_nothing_is_graded_the_evaluation_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"6 of 6 samples were not graded.*deadline"):
        await evaluated("a0", lost="a0 a1 a2 b0 b1 b2")


async def test_missing_grades_are_kept_with_the_evaluation(tmp_path: Path) -> None:
    found = await evaluated("a0 b0", lost="a1")

    found.save(tmp_path / "before.json")
    read = Evaluation.load(tmp_path / "before.json")

    np.testing.assert_array_equal(read.graded_PN, found.graded_PN)
    assert read.num_ungraded == 1


def test_with_every_grade_the_numbers_are_the_same_to_the_bit() -> None:
    successes = np.random.default_rng(0).random((50, 16)) < 0.3

    for k in (1, 4, 16):
        graded = pass_at_k(successes, k, graded_PN=np.ones_like(successes))
        assert graded.tobytes() == pass_at_k(successes, k).tobytes()
