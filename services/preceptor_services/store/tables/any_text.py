"""Texts with any characters, also in PostgreSQL, which refuses the character 0.

There the character 0 is stored as U+FDD0 and `0`, and U+FDD0 itself, which is a noncharacter, as
U+FDD0 and `1`. Queries return the original text.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import String
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

_MARK: Final = "\ufdd0"


class AnyText(TypeDecorator[str]):
    """The type of every text column."""

    impl = String
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Any:
        """Encodes a text for storage."""
        return _stored if dialect.name == "postgresql" else None

    def result_processor(self, dialect: Dialect, coltype: Any) -> Any:
        """Decodes a stored text."""
        return _read if dialect.name == "postgresql" else None


def _stored(text: str | None) -> str | None:
    if text is None or ("\0" not in text and _MARK not in text):
        return text
    return text.replace(_MARK, f"{_MARK}1").replace("\0", f"{_MARK}0")


def _read(stored: str | None) -> str | None:
    if stored is None or _MARK not in stored:
        return stored
    return stored.replace(f"{_MARK}0", "\0").replace(f"{_MARK}1", _MARK)
