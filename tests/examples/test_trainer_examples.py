"""The examples of tasks, participants and samplers work as they stand."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from preceptor_clients.contract.schemas import FeedbackItem
from preceptor_trainer.collect.rollouts import Attempt, Rollout

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def item(source: str, score: float | None) -> FeedbackItem:
    error = None if score is not None else "the judge was away"
    return FeedbackItem(
        id=source, kind="verdict", score=score, error=error, source=source, version="1"
    )


@pytest.mark.parametrize(
    ("scores", "score", "solved"),
    [
        ((1.0, 1.0), 1.0, True),
        ((1.0, 0.5), 0.75, False),
        ((1.0, None), None, False),
        ((), None, False),
    ],
)
def test_the_example_task_is_solved_only_where_every_source_is_content(
    scores: Sequence[float | None], score: float | None, solved: bool
) -> None:
    task = load("strict_task").EverySource()
    items = [item(name, s) for name, s in zip(task.sources, scores, strict=False)]

    attempt = Attempt(rollout=cast(Rollout, None), items=tuple(items), task=task)

    assert (attempt.score, attempt.solved) == (score, solved)
    assert attempt.failed == (score is not None and not solved)


async def test_the_example_participant_ends_a_run_once_its_share_is_solved() -> None:
    watching = load("stop_when_solved").StopWhenSolved(share=0.5).join(cast(Any, None))

    def rows(*solved: bool) -> Any:
        return [SimpleNamespace(attempt=SimpleNamespace(solved=s)) for s in solved]

    assert not await watching.ends(None, rows(True, False, False))
    assert await watching.ends(None, rows(True, True, False))
