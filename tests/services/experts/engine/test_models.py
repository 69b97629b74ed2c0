"""Claims about which architectures are packed, and that packed ones say what transformers says."""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from preceptor_services.experts.engine.models import PackedScorer, PaddedScorer, scorer_of
from preceptor_services.experts.engine.prefill import Prefill
from preceptor_services.experts.engine.score import score

VOCAB_SIZE = 60
SMALL = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
PACKED = {
    "Llama": SMALL,
    "Qwen2": SMALL,
    "Qwen3": SMALL | {"head_dim": 16},
    "Qwen3Moe": SMALL
    | {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "Mistral": SMALL | {"sliding_window": 8},
    "GPT2": {"vocab_size": VOCAB_SIZE, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128},
}


def made(name: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = getattr(transformers, f"{name}Config")(**settings)
    class_name = f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    return getattr(transformers, class_name)(config).eval()


def siblings() -> list[Prefill]:
    """Four rollouts of one prompt, longer than what is worth sharing."""
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, VOCAB_SIZE, 30).astype(np.int32)
    return [
        Prefill(
            context_ids=prompt,
            response_ids=rng.integers(0, VOCAB_SIZE, 4 + n).astype(np.int32),
            positions_P=np.arange(4 + n),
            top_k=8,
        )
        for n in range(4)
    ]


def assert_says_what_transformers_says(model: Any, scorer: Any) -> None:
    batch = siblings()
    for wanted, found in zip(batch, score(scorer, batch, vocab_size=VOCAB_SIZE), strict=True):
        ids = torch.tensor(np.concatenate([wanted.context_ids, wanted.response_ids]))[None].long()
        with torch.no_grad():
            logprobs_LV = model(input_ids=ids).logits[0].log_softmax(-1).numpy()
        rows = logprobs_LV[len(wanted.context_ids) - 1 : -1]
        entries = np.take_along_axis(rows, found.ids_PK.astype(int), 1)
        np.testing.assert_allclose(found.logprobs_PK, entries, atol=1e-5)


@pytest.mark.parametrize("name", PACKED)
def test_a_decoder_is_packed_and_says_what_transformers_says(name: str) -> None:
    model = made(name, **PACKED[name])

    scorer = scorer_of(copy.deepcopy(model), VOCAB_SIZE)

    assert isinstance(scorer, PackedScorer)
    assert_says_what_transformers_says(model, scorer)


@pytest.mark.parametrize("name", ["Qwen3", "Mistral"])
def test_segment_by_segment_a_decoder_says_the_same(name: str) -> None:
    model = made(name, **PACKED[name])

    scorer = PackedScorer(copy.deepcopy(model), in_blocks=False)

    assert_says_what_transformers_says(model, scorer)


def test_a_model_whose_sequences_would_mix_is_read_padded_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = made("Mamba", vocab_size=VOCAB_SIZE, hidden_size=32, num_hidden_layers=2)

    with caplog.at_level(logging.WARNING):
        scorer = scorer_of(copy.deepcopy(model), VOCAB_SIZE)

    assert type(scorer) is PaddedScorer
    assert "runs padded, not packed" in caplog.text
    assert_says_what_transformers_says(model, scorer)


def test_a_padded_model_stays_in_its_tokens() -> None:
    scorer = PaddedScorer(made("Llama", **SMALL))
    sequences = [np.zeros(length, np.int32) for length in (9, 3, 10, 4, 2)]

    passes = scorer.plan(sequences, 20)

    assert [[len(sequences[i]) for i in members] for members in passes] == [[2, 3, 4], [9, 10]]


def test_a_model_that_changes_its_logits_after_the_head_is_refused() -> None:
    gemma = made("Gemma2", **SMALL, head_dim=16, final_logit_softcapping=2.0)

    with pytest.raises(ValueError, match="product of head and hidden state"):
        scorer_of(gemma, VOCAB_SIZE)
