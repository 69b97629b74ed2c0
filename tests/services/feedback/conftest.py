"""Queries for the executor's tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from preceptor_clients.contract.schemas import FeedbackQuery, Message, Prompt

SORT_TASK = {
    "language": "python",
    "mode": "expression",
    "entry": "x",
    "shown": [{"input": [3, 1], "expected": [1, 3]}],
    "hidden": [{"input": [], "expected": []}, {"input": [2, 9, 2], "expected": [2, 2, 9]}],
}


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
