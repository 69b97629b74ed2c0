"""How unanswered questions become jobs. Pure.

A job is one call of the service at most: the members of one group, cut where the service's limits
are. Questions without a group travel together, unless each group must be a call by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from preceptor_clients.contract.calls import fill_calls
from preceptor_clients.contract.schemas import FeedbackQuery, PrefixQuery, ServiceLimits

_CHARS_PER_TOKEN = 3


class Bundled(Protocol):
    """What bundling reads of a question."""

    @property
    def group_id(self) -> str | None: ...
    @property
    def num_tokens(self) -> int: ...


Q = TypeVar("Q", bound=Bundled)


def bundle(questions: Sequence[Q], limits: ServiceLimits, *, exclusive: bool) -> list[list[Q]]:
    """Splits questions into jobs, in the order in which their groups first appear.

    Args:
        questions: What is to be asked.
        limits: Most items and tokens of one call; an item that is over by itself goes alone.
        exclusive: Each group is a call by itself, and a question without one is its own group.
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
