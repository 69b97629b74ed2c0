"""A feedback source that likes short answers. The smallest complete one.

preceptor serve brevity_source:Brevity --port 8102 --option max_tokens=16
"""

from collections.abc import Sequence

from preceptor_clients.contract.schemas import (
    FeedbackAnswer,
    FeedbackItem,
    FeedbackQuery,
    ServiceInfo,
)


class Brevity:
    """Score 1 up to `max_tokens`, else 0 and a word about it."""

    def __init__(self, max_tokens: int = 16) -> None:
        self._max_tokens = max_tokens

    def info(self) -> ServiceInfo:
        """What the gateway is told. The version changes whenever answers may."""
        return ServiceInfo(name="brevity", role="source", version=f"1-{self._max_tokens}")

    async def feedback(self, queries: Sequence[FeedbackQuery]) -> list[FeedbackAnswer]:
        """One answer per query, in order."""
        return [self._answer(query) for query in queries]

    def _answer(self, query: FeedbackQuery) -> FeedbackAnswer:
        over = len(query.response_ids) - self._max_tokens
        item = FeedbackItem(
            id=f"brevity-{query.rollout_id}",
            kind="verdict",
            score=float(over <= 0),
            text=f"{over} tokens too long" if over > 0 else None,
            source="brevity",
            version=self.info().version,
        )
        return FeedbackAnswer(items=(item,), source="brevity", source_version=self.info().version)
