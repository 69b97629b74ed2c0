"""Bundles unanswered questions into jobs. Pure.

A job fits into one call of the service: the members of one group, split at the service's limits.
Questions without a group share jobs, unless each group must be a separate call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from preceptor_clients.contract.calls import fill_calls
from preceptor_clients.contract.schemas import FeedbackQuery, PrefixQuery, ServiceLimits

_CHARS_PER_TOKEN = 3


class Bundled(Protocol):
    """The fields of a question that bundling reads."""

    @property
    def group_id(self) -> str | None: ...
    @property
    def num_tokens(self) -> int: ...


Q = TypeVar("Q", bound=Bundled)


def bundle(questions: Sequence[Q], limits: ServiceLimits, *, exclusive: bool) -> list[list[Q]]:
    """Splits questions into jobs, in the order in which their groups first appear.

    Args:
        questions: The questions.
        limits: Most items and tokens of one call; an item that alone exceeds them gets its own job.
        exclusive: Each group is a separate call, and a question without a group is its own group.
    """
    groups: dict[str | int | None, list[Q]] = {}
    for number, question in enumerate(questions):
        alone = number if exclusive else None
        groups.setdefault(question.group_id or alone, []).append(question)
    most = (limits.max_batch, limits.max_batch_tokens)
    return [
        job
        for group in groups.values()
        for job in fill_calls(group, size=lambda question: (1, question.num_tokens), most=most)
    ]


def num_tokens(query: PrefixQuery | FeedbackQuery) -> int:
    """Tokens of context and response: counted where ids are known, else estimated from the text."""
    prompt = query.prompt
    chars = sum(len(message.content) for message in prompt.messages)
    context = chars // _CHARS_PER_TOKEN if prompt.ids is None else len(prompt.ids)
    feedback = query.feedback if isinstance(query, PrefixQuery) else ()
    seen = sum(len(item.text or "") for item in feedback)
    return context + seen // _CHARS_PER_TOKEN + len(query.response_ids)
