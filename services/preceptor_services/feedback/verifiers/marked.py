"""Finds the answer that a response marks: between tags, or in a box of LaTeX."""

from __future__ import annotations

import re
from typing import Final

_BOX: Final = re.compile(r"\\(?:boxed|fbox)\s*\{")
_JOINED: Final = re.compile(r"[\s$.*]*(?:[,;]\s*(?:and|or)?|and|or)[\s$.*]*")
"""What may stand between boxes that are one answer together."""
_FAR: Final = 40
"""Characters between boxes that are two answers."""


def last_tagged(text: str, tag: str) -> str | None:
    """What stands in the last `<tag>...</tag>`; None where there is none."""
    pattern = rf"<{re.escape(tag)}>((?:(?!<{re.escape(tag)}>).)*?)</{re.escape(tag)}>"
    found = re.findall(pattern, text, re.IGNORECASE | re.DOTALL)
    return found[-1].strip() if found else None


def last_boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{...}`; boxes that only a comma or a word joins are one list.

    A box that is never closed counts to the end of the text, so that its content is not ignored.
    """
    boxes = _boxes(text)
    if not boxes:
        return None
    taken = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        between = text[box[1] : taken[0][0]]
        if len(between) > _FAR or not _JOINED.fullmatch(between):
            break
        taken.insert(0, box)
    return ", ".join(content for _, _, content in taken)


def _boxes(text: str) -> list[tuple[int, int, str]]:
    """Start, end and content of each box that is in no other box."""
    found: list[tuple[int, int, str]] = []
    end = 0
    for match in _BOX.finditer(text):
        if match.start() < end:
            continue
        end = _closing(text, match.end())
        content = text[match.end() : end].strip()
        end = min(end + 1, len(text))
        found.append((match.start(), end, content))
    return found


def _closing(text: str, start: int) -> int:
    """Place of the brace that closes the one before `start`; the end where none does."""
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return len(text)
