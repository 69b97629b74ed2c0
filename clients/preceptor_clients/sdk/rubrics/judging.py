"""Asks a model for verdicts, whoever serves it: as JSON first, then in words.

    judgement = await judge(Counted(chat), rubric, material)

A reply that cannot be read is asked for again in words. A judgement that fails raises `NotJudged`;
there is no score in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from preceptor_clients.sdk.rubrics.chats import json_chat, reason_chat, schema, verdict_chat
from preceptor_clients.sdk.rubrics.material import Material, material_mark
from preceptor_clients.sdk.rubrics.replies import (
    Unreadable,
    read_json,
    read_reason,
    read_word,
    thinks,
)
from preceptor_clients.sdk.rubrics.rubric import Rubric, Verdict

Form = Literal["json", "words"]
"""How verdicts are asked for: `json` with a schema and then in words, or `words` alone."""
_WORD_TOKENS: Final = 16
"""Room for one word, and for a model that puts marks around it."""


class NotJudged(Exception):
    """A judgement failed; the message says why."""


class SchemaRefused(Exception):
    """The server refused a request with a schema."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """One reply of a model."""

    text: str
    cut_off: bool
    """Whether it was cut off at `max_tokens`."""
    input_tokens: int = 0
    output_tokens: int = 0


class Speaks(Protocol):
    """A model that answers chats."""

    async def say(
        self, chat: Sequence[dict[str, str]], *, max_tokens: int, schema: dict[str, Any] | None
    ) -> Said:
        """The reply to a chat.

        Raises:
            SchemaRefused: there was a schema, and the server refused the request.
        """
        ...


@dataclass
class Counted:
    """A model, and what was asked of it."""

    model: Speaks
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    replies: list[str] = field(default_factory=list[str])

    async def say(
        self, chat: Sequence[dict[str, str]], *, max_tokens: int, schema: dict[str, Any] | None
    ) -> Said:
        """As the model's."""
        self.calls += 1
        said = await self.model.say(chat, max_tokens=max_tokens, schema=schema)
        self.input_tokens += said.input_tokens
        self.output_tokens += said.output_tokens
        self.replies.append(said.text)
        return said


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdicts on one response."""

    verdicts: tuple[Verdict, ...]
    form: Form
    """How the verdicts were given."""


async def judge(
    model: Speaks, rubric: Rubric, material: Material, *, form: Form = "json", max_tokens: int = 512
) -> Judgement:
    """One verdict for each criterion.

    Raises:
        NotJudged: the replies could not be read.
        Exception: what the model raised; it gave no reply.
    """
    mark = material_mark(material)
    why = ""
    if form == "json":
        try:
            verdicts = await _as_json(model, rubric, material, mark, max_tokens)
        except (SchemaRefused, Unreadable) as error:
            why = f"; before that, as JSON: {error}"
        else:
            return Judgement(verdicts=verdicts, form="json")
    try:
        return Judgement(
            verdicts=await _in_words(model, rubric, material, mark, max_tokens), form="words"
        )
    except Unreadable as error:
        raise NotJudged(f"{error}{why}") from None


async def _as_json(
    model: Speaks, rubric: Rubric, material: Material, mark: str, max_tokens: int
) -> tuple[Verdict, ...]:
    chat = json_chat(rubric, material, mark)
    said = await model.say(chat, max_tokens=max_tokens, schema=schema(rubric))
    if said.cut_off:
        raise Unreadable(f"the reply was cut off at {max_tokens} tokens")
    # A model that repeats what it reads has judged nothing, though it may look like verdicts.
    if said.text.strip() and any(said.text.strip() in text for _, text in material.blocks()):
        raise Unreadable("the reply repeats a part of what is judged")
    return read_json(said.text, rubric)


async def _in_words(
    model: Speaks, rubric: Rubric, material: Material, mark: str, max_tokens: int
) -> tuple[Verdict, ...]:
    verdicts: list[Verdict] = []
    for criterion in rubric.criteria:
        chat = reason_chat(criterion, material, mark)
        reasoned = await model.say(chat, max_tokens=max_tokens, schema=None)
        reason = read_reason(reasoned.text)
        room = max_tokens if thinks(reasoned.text) else _WORD_TOKENS
        word = await model.say(verdict_chat(chat, reason), max_tokens=room, schema=None)
        verdicts.append(read_word(word.text, criterion.name, reason))
    return tuple(verdicts)
