"""Finds a tokenizer's control tokens: all of them, those that end a response, the start token.

Other modules take them from here. A control token is one that the tokenizer's own table marks as
special; the names `eos_token`, `pad_token` and so on cover some of them only: `<|im_end|>` has no
name in most chat models. Tokens that were added without the mark, such as `<think>`, are ordinary
text.

Works on tokenizers of transformers, without importing that library.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, cast

_WORDS: Final = "qzjx"
"""A text that no template contains."""


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """Ids marked as special, and how each is spelled."""
    table: Mapping[int, Any] = tokenizer.added_tokens_decoder
    return {i: str(token.content) for i, token in table.items() if token.special}


def end_ids(tokenizer: Any) -> frozenset[int]:
    """Every id after which a model with this tokenizer is done.

    These are the tokenizer's end token and the ends in `generation_config.json` and `config.json`
    of its folder. Where the first file names none, the token that the chat template writes right
    behind an assistant's words is one too.
    """
    declared = _declared(tokenizer, "generation_config.json")
    named = [tokenizer.eos_token_id, *declared, *_declared(tokenizer, "config.json")]
    if not declared:
        named.append(_turn_end(tokenizer))
    return frozenset(int(i) for i in named if i is not None)


def start_id(tokenizer: Any) -> int | None:
    """The token that begins every text; None where there is none."""
    return cast("int | None", tokenizer.bos_token_id)


def pad_id(tokenizer: Any) -> int:
    """An id to pad with: padding is masked, so any id serves where there is no padding token."""
    named = cast("int | None", tokenizer.pad_token_id)
    return min(end_ids(tokenizer), default=0) if named is None else named


def one_start(tokenizer: Any, ids: list[int]) -> list[int]:
    """`ids` with one start token, where the tokenizer put its own before one that was there."""
    start = start_id(tokenizer)
    return ids[1:] if start is not None and ids[:2] == [start, start] else ids


def _declared(tokenizer: Any, file_name: str) -> list[int]:
    """`eos_token_id` of a configuration in the tokenizer's folder: none, one or several."""
    folder = cast("str | None", tokenizer.name_or_path)
    path = Path(folder or "", file_name)
    if not folder or not path.is_file():
        return []
    value: Any = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    listed = cast("Iterable[Any]", value if isinstance(value, list) else [value])
    return [int(i) for i in listed if i is not None]


def _turn_end(tokenizer: Any) -> int | None:
    """The control token right behind an assistant's words in a chat that goes on."""
    chat = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": _WORDS},
        {"role": "user", "content": "b"},
    ]
    if not tokenizer.chat_template:
        return None
    try:
        text: str = tokenizer.apply_chat_template(chat, tokenize=False)
    except Exception:  # a template is foreign code: if it fails, there is no rendered turn to read
        return None
    after = text.rpartition(_WORDS)[2]
    spelled = control_tokens(tokenizer)
    ends = [i for i, word in spelled.items() if after.startswith(word)]
    return max(ends, key=lambda i: len(spelled[i]), default=None)
