"""How a Hugging Face tokenizer spells texts, for the edit compiler.

Only tokenizers whose tokens are bytes of the text can be used: byte-level ones (GPT-2, Qwen, Llama
3 and the shipped student), and those whose pieces are plain text. Others add or take away spaces
depending on what stands before, so that a token has no text of its own; they are refused.

    spelling = TokenizerSpelling.of(AutoTokenizer.from_pretrained(folder))
"""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import cached_property
from typing import Any, Final, Self, cast

_PLAIN: Final = (None, "Fuse", "BPEDecoder")


class TokenizerSpelling:
    """Texts to ids and back, token by token."""

    def __init__(self, tokenizer: Any, *, eos_id: int, special_ids: Collection[int]) -> None:
        """Spells with `tokenizer`, a `tokenizers.Tokenizer`; it is copied, not changed.

        Raises:
            ValueError: its tokens are not bytes of the text.
        """
        rules: str = tokenizer.to_str()
        self._tokenizer: Any = cast("Any", type(tokenizer)).from_str(rules)
        # A person who types the spelling of a special token means its characters.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._eos_id = eos_id
        self._special = frozenset(special_ids)
        decoder = cast("dict[str, Any] | None", json.loads(rules)["decoder"])
        self._kind = None if decoder is None else str(decoder["type"])
        if self._kind not in (*_PLAIN, "ByteLevel"):
            raise ValueError(f"tokenizer: a decoder of type {self._kind!r} joins no plain bytes")

    @classmethod
    def of(cls, tokenizer: Any) -> Self:
        """That of a fast tokenizer of transformers."""
        return cls(
            tokenizer.backend_tokenizer,
            eos_id=tokenizer.eos_token_id,
            special_ids=tokenizer.all_special_ids,
        )

    @property
    def eos_id(self) -> int:
        """The end token."""
        return self._eos_id

    def encode(self, text: str) -> list[int]:
        """Ids of a text, special tokens never among them."""
        # Half surrogates have no bytes; what a page may send by accident becomes a question mark.
        clean = text.encode("utf-8", "replace").decode("utf-8")
        return list(self._tokenizer.encode(clean, add_special_tokens=False).ids)

    def piece(self, token: int) -> bytes:
        """What one token adds to the text."""
        return self.pieces.get(token, b"")

    @cached_property
    def pieces(self) -> dict[int, bytes]:
        """Every token's bytes; nothing for special ones."""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        added: dict[int, Any] = self._tokenizer.get_added_tokens_decoder()
        return {
            token: b""
            if token in self._special
            else word.encode()
            if token in added or self._kind != "ByteLevel"
            else bytes(_BYTES[char] for char in word)
            for word, token in vocabulary.items()
        }


def _byte_characters() -> dict[str, int]:
    """The printable characters that byte-level vocabularies write for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    table.update({chr(256 + n): byte for n, byte in enumerate(others)})
    return table


_BYTES: Final = _byte_characters()
