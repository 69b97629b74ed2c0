"""The student's tokenizer beside a server that has one of its own, and a teacher's beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from transformers import AutoTokenizer

from preceptor_clients.contract.control_tokens import control_tokens, end_ids
from preceptor_clients.contract.fingerprint import tokenizer_fingerprint
from preceptor_clients.sdk.chat_encoding import ChatEncoder


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
        self._chats = ChatEncoder(self._tokenizer)
        self._control = control_tokens(self._tokenizer)
        self.end_ids = end_ids(self._tokenizer)
        self.special_ids = self.end_ids | self._control.keys()
        self.end_id = cast("int | None", self._tokenizer.eos_token_id)
        if self.end_id is None:
            self.end_id = min(self.end_ids, default=None)

    def chat_text(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A chat up to where the assistant begins to write, as one text.

        Raises:
            Invalid: the chat template does not take the messages, or one spells a control token.
        """
        return self._chats.chat_text(messages)

    def without_start(self, text: str) -> str:
        """`text` for a reader that begins each text with a start token, if this tokenizer does."""
        return text.removeprefix(self._tokenizer.bos_token) if self._chats.adds_start else text

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The same as ids, whatever the messages spell.

        Raises:
            Invalid: the chat template does not take the messages.
        """
        return self._chats.chat_ids(messages)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without start or end tokens; what spells a control token is characters."""
        return self._chats.text_ids(text)

    def spells_control(self, text: str) -> bool:
        """Whether a reader that looks for control tokens finds one in this text."""
        return self._chats.spells_control(text)

    def begins_control(self, text: str) -> bool:
        """Whether a text begins as a control token is spelled."""
        return text.startswith(tuple(filter(None, self._control.values())))

    def end_of(self, other: StudentTokenizer, token: int) -> int | None:
        """This tokenizer's end for an end of another's: the one of the same name, else its own."""
        name = other._control.get(token)
        return next((i for i in self.end_ids if self._control.get(i) == name), self.end_id)

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
