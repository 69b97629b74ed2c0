"""How a Hugging Face tokenizer spells texts, for the edit compiler.

Only tokenizers whose tokens are bytes of the text can be used: byte-level ones (GPT-2, Qwen, Llama
3 and the shipped student), and those whose pieces are plain text. In others the text of a token
depends on the text before it, because they add or remove spaces; they are refused.

    spelling = TokenizerSpelling.of(AutoTokenizer.from_pretrained(folder))
"""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import cached_property
from typing import Any, Final, Self, cast

from preceptor_clients.contract.control_tokens import control_tokens, end_ids
from preceptor_clients.sdk.plain_text import Placed, PlainText

_PLAIN: Final = (None, "Fuse", "BPEDecoder")


class TokenizerSpelling:
    """Texts to ids and back, token by token."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        eos_id: int,
        special_ids: Collection[int],
        end_ids: Collection[int] = (),
    ) -> None:
        """Spells with `tokenizer`, a `tokenizers.Tokenizer`; it is copied, not changed.

        Args:
            tokenizer: The tokenizer.
            eos_id: The end token of a correction whose response had none.
            special_ids: Ids without a text.
            end_ids: Further ids after which a response is done.

        Raises:
            ValueError: its tokens are not bytes of the text.
        """
        rules: dict[str, Any] = json.loads(tokenizer.to_str())
        self._tokenizer: Any = cast("Any", type(tokenizer)).from_str(json.dumps(rules))
        # The spelling of a special token in a person's text is read as characters.
        self._plain = PlainText(tokenizer)
        self._eos_id = eos_id
        self._end_ids = frozenset({eos_id, *end_ids})
        self._special = self._end_ids.union(special_ids)
        decoder = cast("dict[str, Any] | None", rules["decoder"])
        self._kind = None if decoder is None else str(decoder["type"])
        if self._kind not in (*_PLAIN, "ByteLevel"):
            raise ValueError(
                f"tokenizer: decoder {self._kind!r} is not supported; use a byte-level tokenizer"
            )

    @classmethod
    def of(cls, tokenizer: Any) -> Self:
        """Builds it from a fast tokenizer of transformers.

        Raises:
            ValueError: its tokens are not bytes of the text, or it has no end token.
        """
        ends = end_ids(tokenizer)
        if not ends:
            raise ValueError("tokenizer: has no end token")
        named = cast("int | None", tokenizer.eos_token_id)
        eos_id = min(ends) if named is None else named
        return cls(
            tokenizer.backend_tokenizer,
            eos_id=eos_id,
            special_ids=control_tokens(tokenizer).keys(),
            end_ids=ends,
        )

    @property
    def eos_id(self) -> int:
        """The end token."""
        return self._eos_id

    @property
    def end_ids(self) -> frozenset[int]:
        """Every token after which a response is done."""
        return self._end_ids

    def encode(self, text: str) -> list[int]:
        """Ids of a text, special tokens never among them."""
        return [one.token for one in self.placed(text)]

    def placed(self, text: str) -> list[Placed]:
        """Ids of a text, each with the characters of `text` that it covers."""
        # A lone surrogate, which a page may send by accident, has no bytes and becomes a question
        # mark.
        return self._plain.placed(text.encode("utf-8", "replace").decode("utf-8"))

    def normal(self, text: str) -> str:
        """`text` after the tokenizer's normalisation."""
        normalizer: Any = self._tokenizer.normalizer
        return text if normalizer is None else normalizer.normalize_str(text)

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
