"""The tokenizer of the student, or of a teacher, used beside a server with its own tokenizer."""

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
    """A Hugging Face folder's tokenizer, without added tokens and without clean-up of texts.

    Raises:
        ValueError: the folder has no tokenizer.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ValueError(f"tokenizer: {str(folder)!r} is not a folder")
        self._tokenizer: Any = cast("Any", AutoTokenizer).from_pretrained(
            folder, local_files_only=True
        )
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        self.vocab_size = 1 + max(vocabulary.values())
        self.vocab_fingerprint = tokenizer_fingerprint(self._tokenizer)
        self.has_chat_template = bool(self._tokenizer.chat_template)
        self._chats = ChatEncoder(self._tokenizer)
        self._control = control_tokens(self._tokenizer)
        self.end_ids = end_ids(self._tokenizer)
        self.special_ids = self.end_ids | self._control.keys()
        self.end_id = cast("int | None", self._tokenizer.eos_token_id)
        if self.end_id is None:
            self.end_id = min(self.end_ids, default=None)

    def chat_text(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A chat as one text, up to the start of the assistant's turn.

        Raises:
            Invalid: the chat template refuses the messages, or one spells a control token.
        """
        return self._chats.chat_text(messages)

    def without_start(self, text: str) -> str:
        """`text` without its start token, for a server that adds the start token itself."""
        return text.removeprefix(self._tokenizer.bos_token) if self._chats.adds_start else text

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The same chat as ids; spellings of control tokens in messages are characters.

        Raises:
            Invalid: the chat template refuses the messages.
        """
        return self._chats.chat_ids(messages)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without start or end token; spellings of control tokens are characters."""
        return self._chats.text_ids(text)

    def spells_control(self, text: str) -> bool:
        """Whether this text has the spelling of a control token."""
        return self._chats.spells_control(text)

    def begins_control(self, text: str) -> bool:
        """Whether this text begins with the spelling of a control token."""
        return text.startswith(tuple(filter(None, self._control.values())))

    def end_of(self, other: StudentTokenizer, token: int) -> int | None:
        """The end token here for an end token of `other`: that with the same name, else its own."""
        name = other._control.get(token)
        return next((i for i in self.end_ids if self._control.get(i) == name), self.end_id)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that are not a character become U+FFFD."""
        return self._tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    @cached_property
    def id_of_text(self) -> dict[str, int]:
        """Ids by their text, for texts of exactly one id."""
        texts = [self.decode([i]) for i in range(self.vocab_size)]
        times = Counter(texts)
        return {
            text: i for i, text in enumerate(texts) if times[text] == 1 and "\ufffd" not in text
        }
