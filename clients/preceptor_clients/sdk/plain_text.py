"""Encodes texts by a copy of a tokenizer that finds no control token in them.

The copy's control tokens have random names that no text contains, also among the words of its
vocabulary. Its other rules are the tokenizer's own, so that a text without control tokens has the
same ids in both.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast


class Placed(NamedTuple):
    """A token of a text, and the characters that it is made of."""

    token: int
    start: int
    stop: int


class PlainText:
    """The copy of one `tokenizers.Tokenizer`."""

    def __init__(self, backend: Any) -> None:
        rules: dict[str, Any] = json.loads(backend.to_str())
        added: list[dict[str, Any]] = rules["added_tokens"]
        secret = uuid.uuid4().hex
        self._names = {
            token["content"]: f"\U00100000{secret}{token['id']}\U00100001"
            for token in added
            if token["special"]
        }
        # All added tokens are matched, the longest first, as the tokenizer does.
        self._find = re.compile(any_of(map(_sought, added)))
        ids = {self._name(token["content"]): int(token["id"]) for token in added}
        for token in added:
            token["content"] = self._name(token["content"])
            token["normalized"] = token["normalized"] and not token["special"]
        self._rename_in(rules["model"])
        rules |= {"post_processor": None, "truncation": None, "padding": None}
        self._tokenizer: Any = cast("Any", type(backend)).from_str(json.dumps(rules))
        self._id_of: dict[int, int] = {
            self._tokenizer.token_to_id(name): i for name, i in ids.items()
        }

    def renamed(self, text: str) -> str:
        """`text` with the names of its control tokens."""
        return self._find.sub(lambda found: self._name(found[0]), text)

    def ids(self, text: str) -> list[int]:
        """The ids that the tokenizer itself would give."""
        return [one.token for one in self.placed(text)]

    def placed(self, text: str) -> list[Placed]:
        """The tokens with the characters of `text` that each one covers."""
        found: Any = self._tokenizer.encode(text, add_special_tokens=False)
        ids, places = cast("list[int]", found.ids), cast("list[tuple[int, int]]", found.offsets)
        return [Placed(self._id_of.get(i, i), *at) for i, at in zip(ids, places, strict=True)]

    def _name(self, word: str) -> str:
        return self._names.get(word, word)

    def _rename_in(self, model: dict[str, Any]) -> None:
        """Renames control tokens in the vocabulary, which could else form one from plain text."""
        if isinstance(model["vocab"], dict):
            words = cast("dict[str, int]", model["vocab"])
            model["vocab"] = {self._name(word): i for word, i in words.items()}
        else:
            pieces = cast("list[list[Any]]", model["vocab"])
            model["vocab"] = [[self._name(word), score] for word, score in pieces]
        if model.get("unk_token"):
            model["unk_token"] = self._name(model["unk_token"])


def _sought(token: Mapping[str, Any]) -> str:
    """A pattern of where the tokenizer finds an added token."""
    word = re.escape(token["content"])
    return rf"(?<!\w){word}(?!\w)" if token["single_word"] else word


def any_of(patterns: Iterable[str]) -> str:
    """A pattern of any of these, the longest first; one that is never found where there are none"""
    return "|".join(sorted(filter(None, patterns), key=len, reverse=True)) or "(?!)"
