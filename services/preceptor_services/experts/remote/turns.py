"""The chat that a chat API reads before the response."""

from __future__ import annotations

from typing import NamedTuple

from preceptor_clients.contract.errors import Invalid
from preceptor_clients.contract.schemas import PrefixQuery
from preceptor_clients.sdk.templates import FeedbackTemplate, render_feedback


class Turns(NamedTuple):
    """Messages, and the feedback items that are in them."""

    messages: list[dict[str, str]]
    used_feedback: tuple[str, ...]


def turns_of(query: PrefixQuery, template: FeedbackTemplate, *, reads_feedback: bool) -> Turns:
    """The chat of a query, with its feedback if `reads_feedback`.

    Raises:
        Invalid: the prompt has only ids, which another tokenizer cannot read, or the feedback
            cannot be rendered.
    """
    if not query.prompt.messages:
        raise Invalid(
            "is empty; this expert needs messages, it cannot read ids", field="prompt.messages"
        )
    items = [item for item in query.feedback if item.text] if reads_feedback else []
    messages = [message.model_dump() for message in query.prompt.messages]
    rendered = render_feedback(template, messages, items)
    return Turns(rendered, tuple(item.id for item in items))
