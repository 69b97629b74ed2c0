"""Boxes and queries for the executor's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from preceptor_clients.schemas import FeedbackQuery, Message, Prompt
from preceptor_services.feedback_sources.isolation import Attempt, Limits, Outcome
from preceptor_services.feedback_sources.process_isolation import ProcessIsolation

RunProgram = Callable[..., Outcome]
SORT_TASK = {
    "language": "python",
    "mode": "expression",
    "entry": "x",
    "shown": [{"input": [3, 1], "expected": [1, 3]}],
    "hidden": [{"input": [], "expected": []}, {"input": [2, 9, 2], "expected": [2, 2, 9]}],
}


@pytest.fixture(scope="module")
def box() -> Iterator[ProcessIsolation]:
    isolation = ProcessIsolation()
    isolation.start()
    yield isolation
    isolation.stop()


@pytest.fixture
def run_program(box: ProcessIsolation) -> RunProgram:
    def run(program: str, *inputs: Any, **limits: Any) -> Outcome:
        attempt = Attempt(program=program, entry="x", inputs=inputs or ([3, 1],))
        return box.run(attempt, Limits(**limits))

    return run


@pytest.fixture
def make_query() -> Callable[..., FeedbackQuery]:
    def make(response: str, task: Any = SORT_TASK, **fields: Any) -> FeedbackQuery:
        return FeedbackQuery(
            **{
                "rollout_id": "r1",
                "prompt": Prompt(messages=(Message(role="user", content="[3,1]->[1,3]"),)),
                "response_ids": [*response.encode("utf-8", "replace"), 257],
                "response_text": response,
                "finish_reason": "stop",
                "payload_sha256": "0" * 64,
                "payload": task,
            }
            | fields
        )

    return make


def descendants(pid: int | None) -> list[psutil.Process]:
    """Every process below the box."""
    assert pid is not None
    return psutil.Process(pid).children(recursive=True)


@pytest.fixture
def as_user_script() -> Path:
    return Path(__file__).with_name("run_restricted.py")
