"""The student's tokenizer beside a server that has one of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from transformers import AutoTokenizer

from preceptor_clients.contract.fingerprint import tokenizer_fingerprint


class StudentTokenizer:
    """A Hugging Face folder's tokenizer; nothing is added to a text, and nothing is cleaned up.

    Raises:
        ValueError: the folder holds no tokenizer.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ValueError(f"tokenizer: {str(folder)!r} is no folder")
        self._tokenizer: Any = cast("Any", AutoTokenizer).from_pretrained(
            folder, local_files_only=True
        )
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        self.vocab_size = 1 + max(vocabulary.values())
        self.vocab_fingerprint = tokenizer_fingerprint(self._tokenizer)
        self.special_ids = frozenset(cast("list[int]", self._tokenizer.all_special_ids))
        self.end_id = cast("int | None", self._tokenizer.eos_token_id)

    def chat_text(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A chat up to where the assistant begins to write."""
        return self._tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
        )

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The same as ids."""
        return self.encode(self.chat_text(messages))

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without start or end tokens."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that are no character become U+FFFD."""
        return self._tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    @cached_property
    def id_of_text(self) -> dict[str, int]:
        """Ids by their text, for those texts that one id alone has."""
        texts = [self.decode([i]) for i in range(self.vocab_size)]
        times = Counter(texts)
        return {
            text: i for i, text in enumerate(texts) if times[text] == 1 and "\ufffd" not in text
        }
