"""What is judged: prompt, response and columns as data, between lines with a random mark.

    BEGIN 5f0c... response
    <the response>
    END 5f0c... response

The judged text may try to give orders, or to look like the end of its block. The mark is drawn
anew for every judgement and occurs in none of the texts, so no text can end its block. Control
tokens of chat templates are broken apart, because servers read them inside a message too.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

_CONTROL: Final = re.compile(
    r"<(?=[|｜])"
    r"|<(?=/?(?:s|bos|eos|pad|unk|think|start_of_turn|end_of_turn|start_of_image|sep|cls|mask)>)"
    r"|<(?=</?SYS>>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT)\])",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Material:
    """One response to judge."""

    prompt: Sequence[Mapping[str, str]]
    """The chat that the response continues."""
    response: str
    """The last turn, where it has several."""
    earlier: Sequence[Mapping[str, str]] = ()
    """Turns of the attempt before that: what the student wrote, and what it read in between."""
    cut_off: bool = False
    """Whether it was cut off at the limit of tokens."""
    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    """What else the judge sees, by name."""

    def blocks(self) -> list[tuple[str, str]]:
        """Name and text of each block, in reading order."""
        turns = [(f"prompt ({message['role']})", message["content"]) for message in self.prompt]
        turns += [
            (f"attempt, turn {number} ({turn['role']})", turn["content"])
            for number, turn in enumerate(self.earlier, start=1)
        ]
        response = "response (cut off at the length limit)" if self.cut_off else "response"
        return [*turns, *self.columns.items(), (response, self.response)]


def last_turn(
    turns: Sequence[Mapping[str, str]], response: str
) -> tuple[Sequence[Mapping[str, str]], str]:
    """The earlier turns of an attempt, and its last one: what the student wrote at the end.

    Args:
        turns: All turns; empty where the attempt has only one.
        response: The whole text of an attempt of one turn.
    """
    if not turns:
        return (), response
    ends_itself = turns[-1]["role"] == "assistant"
    return (turns[:-1], turns[-1]["content"]) if ends_itself else (turns, "")


def fresh_mark(texts: Sequence[str], draw: Callable[[], str] = lambda: secrets.token_hex(8)) -> str:
    """A mark that occurs in none of the texts."""
    while True:
        mark = draw()
        if not any(mark in text for text in texts):
            return mark


def fenced(material: Material, mark: str) -> str:
    """All blocks, as text between lines with the mark."""
    return "\n\n".join(
        f"BEGIN {mark} {without_control_tokens(name)}\n{without_control_tokens(text)}\n"
        f"END {mark} {without_control_tokens(name)}"
        for name, text in material.blocks()
    )


def without_control_tokens(text: str) -> str:
    """The text with a space inside whatever a chat template could take for a control token."""
    return _CONTROL.sub(lambda found: found[0] + " ", text)


def material_mark(material: Material) -> str:
    """A fresh mark for one judgement."""
    return fresh_mark([part for block in material.blocks() for part in block])
