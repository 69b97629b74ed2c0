"""Fingerprints: which vocabulary, which context, which message.

The vocabulary's fingerprint alone decides whether an expert's ids mean what the student's ids mean.
It begins with the version of the rule by which it was made; one without is of version 1, which knew
only those special tokens that have a name.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from pydantic import BaseModel

from preceptor_clients.contract.control_tokens import control_tokens

VOCAB_VERSION: Final = 2
_DECIDES_ANSWERS: Final = (".json", ".safetensors", ".jinja", ".txt", ".model")


def vocab_fingerprint(pieces: Iterable[tuple[int, bytes, bool]]) -> str:
    """`v2-` and a SHA-256 over (id, bytes, special) in the order of ids, up to the real vocabulary.

    Each piece enters as id (u32), special (u8), number of bytes (u32), bytes; all little-endian.
    Padded rows of an embedding are no pieces. `bytes` is the piece as the tokenizer's file spells
    it, in UTF-8; `special` is the mark in the tokenizer's own table of added tokens.
    """
    digest = hashlib.sha256()
    for token_id, text, special in sorted(pieces):
        digest.update(struct.pack("<IBI", token_id, special, len(text)))
        digest.update(text)
    return f"v{VOCAB_VERSION}-{digest.hexdigest()}"


def vocab_difference(name: str, theirs: str, other: str, ours: str) -> str:
    """Why two fingerprints that differ are no match, in words.

    Args:
        name: Whose `theirs` is, such as "the expert".
        theirs: A fingerprint.
        other: Whose `ours` is.
        ours: Another one.
    """
    version, other_version = _vocab_version(theirs), _vocab_version(ours)
    if version != other_version:
        return (
            f"the fingerprint of {name} is of version {version}, that of {other} of version "
            f"{other_version}: these cannot be compared; bring both to one release, and make "
            "fingerprints that were written down anew (`preceptor expert vocabulary FOLDER`)"
        )
    return f"the vocabulary of {name} is {_short(theirs)}, that of {other} {_short(ours)}"


def _vocab_version(fingerprint: str) -> int:
    version, found, _ = fingerprint.partition("-")
    return int(version.removeprefix("v")) if found else 1


def _short(fingerprint: str) -> str:
    return f"{fingerprint.rpartition('-')[2][:12]}..."


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """`vocab_fingerprint` of a Hugging Face tokenizer."""
    special = control_tokens(tokenizer)
    vocab: dict[str, int] = tokenizer.get_vocab()
    return vocab_fingerprint((i, piece.encode(), i in special) for piece, i in vocab.items())


def ids_hash(ids: np.ndarray) -> str:
    """SHA-256 of token ids as little-endian int32."""
    return hashlib.sha256(np.ascontiguousarray(ids, dtype="<i4").tobytes()).hexdigest()


def folder_fingerprint(folder: Path) -> str:
    """SHA-256 over names and contents of the files that decide a model's answers."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in _DECIDES_ANSWERS and path.is_file():
            with path.open("rb") as file:
                digest.update(f"{path.name}\0".encode())
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def settings_version(code_version: str, decides: Mapping[str, Any]) -> str:
    """A service's version: its code's, and a hash of the settings that decide its answers."""
    digest = hashlib.sha256(json.dumps(dict(decides), sort_keys=True).encode()).hexdigest()
    return f"{code_version}-{digest[:16]}"


def content_hash(value: Any) -> str:
    """SHA-256 of JSON values, messages and arrays.

    Keys are sorted, fields that are None are left out, arrays go by type, shape and bytes.
    """
    return hashlib.sha256(_CANONICAL.encode(value).encode()).hexdigest()


def _token(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(cast("np.ndarray", value))
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        return {"$array": [array.dtype.str, list(array.shape), digest]}
    # Second, because pydantic looks through its classes at each question.
    if isinstance(value, BaseModel):
        return {name: field for name, field in value.__dict__.items() if field is not None}
    raise TypeError(f"{type(value)} has no content hash")


_CANONICAL: Final = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), allow_nan=False, default=_token
)
