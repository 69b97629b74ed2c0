"""A byte-level BPE of a few hundred merges, and one token per byte as the shipped student has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from preceptor_clients.targets.spelling import TokenizerSpelling

_STUDENT = Path(__file__).parents[3] / "trainer/preceptor_trainer/student/model/tokenizer.json"
_CORPUS = [
    "def define defined undefined(x): return x + 1  # the answer\r\n",
    "if x in items:\n    print(items[x])\n    return sorted(items, key=lambda item: item)\n",
    "The quick brown fox jumps over the lazy dog; naïve café, 東京, 😀😁🎉 👩‍💻 und Straße.\r\n",
    "aa aaa aaaa ab abab abcabc   tabs\t\tand  spaces   \n\n",
] * 4


def trained_bpe() -> Any:
    """A small real tokenizer with merges across words' ends, lines and emoji."""
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<end>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer


@pytest.fixture(scope="session")
def bpe() -> TokenizerSpelling:
    return TokenizerSpelling(trained_bpe(), eos_id=0, special_ids=[0, 1])


@pytest.fixture(scope="session")
def student() -> TokenizerSpelling:
    tokenizer: Any = Tokenizer.from_file(str(_STUDENT))
    eos = tokenizer.token_to_id("<|end|>")
    return TokenizerSpelling(tokenizer, eos_id=eos, special_ids=range(256, 261))


@pytest.fixture(params=["bpe", "student"])
def spelling(request: pytest.FixtureRequest) -> TokenizerSpelling:
    """Each of the two."""
    return request.getfixturevalue(request.param)
