"""Renders feedback into an expert's context: one user turn, by a versioned template.

The turn holds the original prompt, then right answers if any are given (demonstration, reference,
correction), then what went wrong with the student's own attempt (execution, verdict, judge,
comment), then a closing instruction; a system message and earlier turns stay as they are. The
failed attempt itself is never shown: the context policy does not offer it, and SDPO (arXiv
2601.20802, table 6) found that showing it hurts. A template renders all items that it gets; it
selects none.

    >>> COMPACT.render([{"role": "user", "content": "[1]->[2]"}], [item])[-1]["content"]
    '[1]->[2]\\nwrong:\\n[3]->[4] not [3]\\nagain'

Without items the messages come back unchanged: an expert that knows nothing more reads the
plain prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from preceptor_clients.contract.errors import Invalid
from preceptor_clients.contract.schemas import REMARK_KINDS, RIGHT_ANSWER_KINDS

Message = dict[str, str]


class RenderableItem(Protocol):
    """The part of a feedback item that a template reads."""

    @property
    def kind(self) -> str: ...
    @property
    def text(self) -> str | None: ...
    @property
    def expert_may_see(self) -> bool: ...


@dataclass(frozen=True)
class FeedbackTemplate:
    """A named Jinja source over `prompt`, `answers` and `remarks` (both lists of text)."""

    name: str
    source_jinja: str

    @property
    def version(self) -> str:
        """Changes with every byte of the source; recorded with every answer."""
        return hashlib.sha256(self.source_jinja.encode()).hexdigest()[:12]

    def render(
        self, messages: Sequence[Mapping[str, str]], items: Sequence[RenderableItem]
    ) -> list[Message]:
        """Puts the items into the last user turn.

        Args:
            messages: The chat up to and with the user turn that the student answered.
            items: Feedback in reading order; items without text add nothing.

        Returns:
            New messages, equal to `messages` when no item has text.

        Raises:
            ValueError: The last message is not a user turn, or an item may not be seen by an expert
                or is of a kind that no section shows.
        """
        chat: list[Message] = [dict(message) for message in messages]
        if not chat or chat[-1]["role"] != "user":
            raise ValueError(f"messages must end with a user turn, got {chat[-1:]!r}")
        for item in items:
            _check_visible(item)
        answers = [item.text for item in items if item.text and item.kind in RIGHT_ANSWER_KINDS]
        remarks = [item.text for item in items if item.text and item.kind in REMARK_KINDS]
        if answers or remarks:
            chat[-1]["content"] = self._compiled.render(
                prompt=chat[-1]["content"], answers=answers, remarks=remarks
            )
        return chat

    @cached_property
    def _compiled(self) -> Template:
        # sandboxed, because a deployment may bring its own source
        environment = ImmutableSandboxedEnvironment(
            undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
        )
        return environment.from_string(self.source_jinja)


def render_feedback(
    template: FeedbackTemplate,
    messages: Sequence[Mapping[str, str]],
    items: Sequence[RenderableItem],
) -> list[Message]:
    """`template.render` for one query; an error concerns only this query.

    Raises:
        Invalid: the template does not accept these messages or items.
    """
    try:
        return template.render(messages, items)
    except Exception as error:  # a deployment's own template may raise any exception
        raise Invalid(
            f"the template {template.name!r} does not accept these messages or items: {error}",
            field="feedback",
        ) from error


def _check_visible(item: RenderableItem) -> None:
    if not item.expert_may_see:
        raise ValueError(f"items: a {item.kind} item has expert_may_see = False")
    if item.kind not in RIGHT_ANSWER_KINDS | REMARK_KINDS:
        raise ValueError(f"items: kind {item.kind!r} has no section in the template")


PAPERS = FeedbackTemplate(
    name="papers",
    source_jinja="""\
{{ prompt }}
{% if answers %}

Here is a solution that is known to be right:
{% for answer in answers %}

{{ answer }}
{% endfor %}
{% endif %}
{% if remarks %}

An earlier attempt of yours did not succeed. This was observed:
{% for remark in remarks %}

{{ remark }}
{% endfor %}
{% endif %}

With this in mind, solve the task above from the beginning.""",
)

SDPO = FeedbackTemplate(
    name="sdpo",
    source_jinja="""\
{{ prompt }}
{% if answers %}

Correct solution:
{% for answer in answers %}

{{ answer }}
{% endfor %}
{% endif %}
{% if remarks %}

The following is feedback from your unsuccessful earlier attempt:
{% for remark in remarks %}

{{ remark }}
{% endfor %}
{% endif %}

Correctly solve the original question.""",
)
"""The words of SDPO's released code."""

COMPACT = FeedbackTemplate(
    name="compact",
    source_jinja="""\
{{ prompt }}
{% for answer in answers %}
right: {{ answer }}
{% endfor %}
{% if remarks %}
wrong:
{% for remark in remarks %}
{{ remark }}
{% endfor %}
{% endif %}
again""",
)
