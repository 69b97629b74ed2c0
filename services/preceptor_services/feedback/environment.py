"""A feedback source for attempts in an environment that judges them itself.

    preceptor serve preceptor_services.feedback.environment:EnvironmentVerdict

The environment answered the student while it wrote; its reward and what it said of failures came
with the query (`FeedbackQuery.episode`). They become an item like any other: with the environment
and its version, and with an error where there is no reward, which is never a score of 0.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Final

from pydantic import JsonValue

from preceptor_clients.contract.schemas import (
    Episode,
    FeedbackAnswer,
    FeedbackItem,
    FeedbackQuery,
    ServiceInfo,
    ServiceLimits,
)

CODE_VERSION: Final = "1"
NO_ENVIRONMENT: Final = "no environment judged this attempt"
NO_REWARD: Final = "the environment gave no reward"


class EnvironmentVerdict:
    """The environment's own reward as an item."""

    def __init__(self, name: str = "environment") -> None:
        self._name = name

    def info(self) -> ServiceInfo:
        """Name, version and limits."""
        return ServiceInfo(
            name=self._name,
            role="source",
            version=CODE_VERSION,
            limits=ServiceLimits(max_batch=1024, max_concurrency=4),
        )

    async def feedback(self, queries: Sequence[FeedbackQuery]) -> Sequence[FeedbackAnswer]:
        """One answer per query."""
        return [
            FeedbackAnswer(
                items=(self._item(query),), source=self._name, source_version=CODE_VERSION
            )
            for query in queries
        ]

    def _item(self, query: FeedbackQuery) -> FeedbackItem:
        episode = query.episode
        error = _error(episode)
        judged = episode if error is None else None
        facts: dict[str, JsonValue] = {}
        if episode is not None:
            facts = {**episode.details, "environment": episode.environment}
        told = json.dumps([query.rollout_id, query.response_text, facts, error], sort_keys=True)
        return FeedbackItem(
            id=f"env-{hashlib.sha256(told.encode()).hexdigest()[:32]}",
            kind="verdict",
            score=judged.reward if judged is not None else None,
            text=judged.text if judged is not None else None,
            error=error,
            source=self._name,
            version=CODE_VERSION,
            details=facts,
        )


def _error(episode: Episode | None) -> str | None:
    if episode is None or episode.environment is None:
        return NO_ENVIRONMENT
    if episode.reward is None:
        return f"{NO_REWARD}: {episode.text}" if episode.text else NO_REWARD
    return None
