"""Finds the program in a response: its last fenced block.

    def f(x): ...     stands between a line that begins with three back ticks, with a language or
                      without one, and a line that has nothing but these

What a model thinks between `<think>` and `</think>` is no answer.
"""

from __future__ import annotations

import re
from typing import Final

_OPENING: Final = re.compile(r"\s*(`{3,}|~{3,})[^`]*")
_THOUGHT: Final = "</think>"
_THINKING: Final = "<think>"


def fenced_program(response: str) -> str | None:
    """The last closed block outside of thoughts; None where there is none."""
    answer = response.rpartition(_THOUGHT)[2]
    if _THINKING in answer:
        answer = answer.partition(_THINKING)[0]
    found: str | None = None
    fence, block = "", list[str]()
    for line in answer.split("\n"):
        if fence and _closes(line, fence):
            found, fence = "\n".join(block) + "\n", ""
        elif fence:
            block.append(line)
        elif opening := _OPENING.fullmatch(line):
            fence, block = opening[1], []
    return found


def _closes(line: str, fence: str) -> bool:
    text = line.strip()
    return len(text) >= len(fence) and text.strip(fence[0]) == ""
