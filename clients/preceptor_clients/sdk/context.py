"""The expert's context before the student's response: prompt and feedback, as ids that fit.

The context policy in the trainer chose the items; here they are only rendered. Excess text is cut
from the right of the feedback, as SDPO (arXiv 2601.20802) does, and the answer reports the cut.
Prompt and response are never cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from preceptor_clients.contract.errors import ContextTooLong, Invalid
from preceptor_clients.contract.schemas import FeedbackItem, PrefixQuery
from preceptor_clients.sdk.templates import (
    COMPACT,
    PAPERS,
    SDPO,
    FeedbackTemplate,
    render_feedback,
)

_TEMPLATES: Final = {template.name: template for template in (COMPACT, PAPERS, SDPO)}
Encode = Callable[[list[dict[str, str]]], list[int]]


@dataclass(frozen=True, kw_only=True)
class Context:
    """Ids before the response, and the feedback that they contain."""

    ids: np.ndarray
    used_feedback: tuple[str, ...] = ()
    truncated: tuple[str, ...] = ()


def find_template(name: str) -> FeedbackTemplate:
    """The template of this name, or the one in this file.

    Raises:
        ValueError: Neither is there.
    """
    if name in _TEMPLATES:
        return _TEMPLATES[name]
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"template: {name!r} is neither one of {sorted(_TEMPLATES)} nor a file")
    return FeedbackTemplate(name=path.stem, source_jinja=path.read_text())


def build_context(
    query: PrefixQuery,
    *,
    template: FeedbackTemplate,
    encode: Encode,
    max_context: int,
    reads_feedback: bool = True,
) -> Context:
    """The context in which `query` is to be answered.

    Args:
        query: Prompt, feedback items in order, response.
        template: How items become part of the last user turn.
        encode: A chat as ids, with the opening of the assistant's turn.
        max_context: Most tokens that context and response may have together.
        reads_feedback: False leaves all feedback out: the expert sees what the student saw.

    Raises:
        Invalid: An item that no expert may see, or feedback for a prompt given only as ids.
        ContextTooLong: Prompt and response do not fit, or leave no room for any feedback.
    """
    feedback = query.feedback if reads_feedback else ()
    for index, item in enumerate(feedback):
        if not item.expert_may_see:
            raise Invalid(
                f"{item.id} must not be shown to experts", field=f"feedback[{index}].expert_may_see"
            )
    room = max_context - len(query.response_ids)
    items = [item for item in feedback if item.text]
    if not items:
        return _plain(query, encode, room)
    if not query.prompt.messages:
        raise Invalid("is empty; feedback can only be added to a chat", field="prompt.messages")
    messages = [message.model_dump() for message in query.prompt.messages]

    def rendered(shown: Sequence[FeedbackItem]) -> list[int]:
        return encode(render_feedback(template, messages, shown))

    ids = rendered(items)
    if len(ids) <= room:
        return Context(ids=_array(ids), used_feedback=tuple(item.id for item in items))
    return _cut(items, rendered, room)


def _plain(query: PrefixQuery, encode: Encode, room: int) -> Context:
    ids = query.prompt.ids
    if ids is None:
        ids = _array(encode([message.model_dump() for message in query.prompt.messages]))
    if len(ids) > room:
        raise ContextTooLong(
            f"the prompt has {len(ids)} tokens; at most {room} fit", field="prompt"
        )
    return Context(ids=ids)


def _cut(
    items: Sequence[FeedbackItem],
    rendered: Callable[[Sequence[FeedbackItem]], list[int]],
    room: int,
) -> Context:
    """The longest beginning of the feedback that fits, found by bisection over its characters."""
    low, high = 0, sum(len(item.text or "") for item in items)
    while high - low > 1:
        middle = (low + high) // 2
        fits = len(rendered(_beginning(items, middle))) <= room
        low, high = (middle, high) if fits else (low, middle)
    if low == 0:
        raise ContextTooLong(
            f"prompt and response leave no room for feedback: {room} tokens before the response",
            field="feedback",
        )
    shown = _beginning(items, low)
    kept = {item.id: len(item.text or "") for item in shown}
    truncated = tuple(
        f"{item.id}: {kept.get(item.id, 0)} of {len(item.text or '')} characters kept"
        for item in items
        if kept.get(item.id, 0) < len(item.text or "")
    )
    return Context(ids=_array(rendered(shown)), used_feedback=tuple(kept), truncated=truncated)


def _beginning(items: Sequence[FeedbackItem], num_characters: int) -> list[FeedbackItem]:
    shown: list[FeedbackItem] = []
    for item in items:
        text = (item.text or "")[:num_characters]
        if text:
            shown.append(item.model_copy(update={"text": text}))
        num_characters -= len(text)
    return shown


def _array(ids: Sequence[int]) -> np.ndarray:
    return np.array(ids, np.int32)
