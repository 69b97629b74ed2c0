"""Claims about scoring, against a direct forward pass of the same model."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from preceptor_clients.contract.arrays import MISSING
from preceptor_clients.sdk.answers import Distributions
from preceptor_services.experts.engine import attention
from preceptor_services.experts.engine.budget import DEFAULT_BUDGET, Budget
from preceptor_services.experts.engine.models import Scorer, scorer_of
from preceptor_services.experts.engine.prefill import Prefill
from preceptor_services.experts.engine.score import score

VOCAB_SIZE = 261


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Any:
    """Transformers' own way of reading it; what the engine says is compared with this."""
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def scorer(model: Any) -> Scorer:
    return scorer_of(copy.deepcopy(model), VOCAB_SIZE)


def prefill(seed: int, context: int = 9, response: int = 7, **fields: Any) -> Prefill:
    rng = np.random.default_rng(seed)
    return Prefill(
        **{
            "context_ids": rng.integers(0, VOCAB_SIZE, context).astype(np.int32),
            "response_ids": rng.integers(0, VOCAB_SIZE, response).astype(np.int32),
            "positions_P": np.arange(response),
            "top_k": 5,
        }
        | fields
    )


def direct(model: Any, wanted: Prefill) -> np.ndarray:
    """`[T, V]` log-probs of each response token, one sequence by itself, position by position."""
    ids = np.concatenate([wanted.context_ids, wanted.response_ids])
    rows = []
    for t in range(len(wanted.response_ids)):
        before = torch.tensor(ids[: len(wanted.context_ids) + t])[None].long()
        with torch.no_grad():
            rows.append(model(input_ids=before).logits[0, -1].double().log_softmax(-1))
    return torch.stack(rows).numpy()


def assert_equals_direct(model: Any, wanted: Prefill, found: Distributions) -> None:
    logprobs_PV = direct(model, wanted)[wanted.positions_P]
    best = np.take_along_axis(logprobs_PV, found.ids_PK.astype(int), 1)
    own = logprobs_PV[np.arange(len(wanted.positions_P)), wanted.response_ids[wanted.positions_P]]
    np.testing.assert_allclose(found.logprobs_PK, best, atol=1e-5)
    np.testing.assert_allclose(found.own_logprobs_P, own, atol=1e-5)
    ranked = -np.sort(-logprobs_PV[:, :VOCAB_SIZE], 1)[:, : wanted.top_k]
    np.testing.assert_allclose(found.logprobs_PK, ranked, atol=1e-5)


def test_entry_t_is_the_distribution_over_token_t_given_everything_before_it(
    model: Any, scorer: Scorer
) -> None:
    wanted = prefill(1)

    [found] = score(scorer, [wanted], vocab_size=VOCAB_SIZE)

    assert_equals_direct(model, wanted, found)


def test_a_response_shifted_by_one_shifts_the_answer_by_one(model: Any, scorer: Scorer) -> None:
    whole = prefill(2)
    shifted = prefill(
        2,
        context_ids=np.append(whole.context_ids, whole.response_ids[0]),
        response_ids=whole.response_ids[1:],
        positions_P=np.arange(6),
    )

    [a], [b] = (score(scorer, [p], vocab_size=VOCAB_SIZE) for p in (whole, shifted))

    np.testing.assert_array_equal(a.ids_PK[1:], b.ids_PK)
    np.testing.assert_allclose(a.own_logprobs_P[1:], b.own_logprobs_P, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12)), min_size=1, max_size=6),
    data=st.data(),
)
def test_i5_a_sequence_scores_the_same_in_any_batch(
    model: Any, scorer: Scorer, lengths: list[tuple[int, int]], data: st.DataObject
) -> None:
    batch = [prefill(i, context, response) for i, (context, response) in enumerate(lengths)]
    order = data.draw(st.permutations(range(len(batch))))

    together = score(
        scorer,
        [batch[i] for i in order],
        vocab_size=VOCAB_SIZE,
        budget=Budget(max_logits=2_000, max_tokens=60),
    )

    for place, index in enumerate(order):
        assert_equals_direct(model, batch[index], together[place])


def test_the_same_batch_in_the_same_order_gives_the_same_bits(model: Any, scorer: Scorer) -> None:
    batch = [prefill(i, 5 + i, 3 + i) for i in range(5)]

    first, second = (score(scorer, batch, vocab_size=VOCAB_SIZE) for _ in range(2))

    for a, b in zip(first, second, strict=True):
        assert a.logprobs_PK.tobytes() == b.logprobs_PK.tobytes()
        assert a.ids_PK.tobytes() == b.ids_PK.tobytes()


@pytest.mark.parametrize("budget", [DEFAULT_BUDGET, Budget(max_logits=2_000, max_tokens=300)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_i5_a_sequence_gets_the_same_bits_in_any_batch(
    model: Any, dtype: torch.dtype, budget: Budget
) -> None:
    scorer = scorer_of(copy.deepcopy(model).to(dtype), VOCAB_SIZE)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, VOCAB_SIZE, length).astype(np.int32) for length in (3, 60, 530)]
    batch = [
        prefill(i, response=int(rng.integers(1, 70)), context_ids=np.append(prompts[i % 3], tail))
        for i, tail in enumerate(rng.integers(0, 5, 24))
    ]
    alone = [score(scorer, [p], vocab_size=VOCAB_SIZE, budget=budget)[0] for p in batch]

    for size in (2, 5, 13, 24):
        chosen = rng.choice(len(batch), size, replace=False)
        found = score(scorer, [batch[i] for i in chosen], vocab_size=VOCAB_SIZE, budget=budget)
        for index, distributions in zip(chosen, found, strict=True):
            assert distributions.logprobs_PK.tobytes() == alone[index].logprobs_PK.tobytes()
            assert distributions.own_logprobs_P.tobytes() == alone[index].own_logprobs_P.tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_i5_of_a_large_vocabulary_a_sequence_gets_the_same_bits_however_it_is_shared_out(
    dtype: torch.dtype,
) -> None:
    config = Qwen3Config(
        vocab_size=5000,
        hidden_size=64,
        num_hidden_layers=2,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
    )
    torch.manual_seed(0)
    large = Qwen3ForCausalLM(config).to(dtype).eval()
    batch = [prefill(i, context=20 + 9 * i, response=40 + i) for i in range(9)]
    expected = direct(large, batch[0])
    scorer = scorer_of(large, config.vocab_size)
    passes: list[int] = []
    plan = scorer.plan

    def counted(*args: Any) -> list[list[int]]:
        planned = plan(*args)
        passes.append(len(planned))
        return planned

    scorer.plan = counted
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        together = score(scorer, batch, vocab_size=config.vocab_size)
        alone = [score(scorer, [p], vocab_size=config.vocab_size)[0] for p in batch]
    finally:
        torch.set_num_threads(before)

    assert passes == [3, *[1] * len(batch)]
    own_T = expected[np.arange(len(expected)), batch[0].response_ids]
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    np.testing.assert_allclose(together[0].own_logprobs_P, own_T, atol=tolerance)
    for a, b in zip(together, alone, strict=True):
        assert a.ids_PK.tobytes() == b.ids_PK.tobytes()
        assert a.logprobs_PK.tobytes() == b.logprobs_PK.tobytes()
        assert a.own_logprobs_P is not None
        assert b.own_logprobs_P is not None
        assert a.own_logprobs_P.tobytes() == b.own_logprobs_P.tobytes()


def test_only_wanted_positions_are_answered_and_in_their_order(model: Any, scorer: Scorer) -> None:
    everything, some = prefill(3), prefill(3, positions_P=np.array([0, 4, 6]))

    [all_rows], [rows] = (score(scorer, [p], vocab_size=VOCAB_SIZE) for p in (everything, some))

    np.testing.assert_allclose(all_rows.logprobs_PK[[0, 4, 6]], rows.logprobs_PK, atol=1e-5)


def test_candidates_are_scored_in_the_same_pass_and_empty_cells_are_missing(
    model: Any, scorer: Scorer
) -> None:
    candidates = np.array([[5, -1], [260, 7], [-1, -1]], np.int32)
    wanted = prefill(4, positions_P=np.arange(3), candidate_ids_PC=candidates)
    narrow = prefill(5, candidate_ids_PC=np.zeros((7, 1), np.int32))

    found, _ = score(scorer, [wanted, narrow], vocab_size=VOCAB_SIZE)

    expected = direct(model, wanted)
    values = found.candidate_logprobs_PC
    assert values is not None
    assert abs(values[0, 0] - expected[0, 5]) < 1e-5
    assert abs(values[1, 0] - expected[1, 260]) < 1e-5
    assert (values[candidates < 0] == np.float32(MISSING)).all()


def test_padded_rows_of_the_head_are_never_entries_but_keep_their_probability(
    model: Any, scorer: Scorer
) -> None:
    wanted = prefill(6, top_k=VOCAB_SIZE)

    [found] = score(scorer, [wanted], vocab_size=VOCAB_SIZE)

    padding = np.exp(direct(model, wanted)[:, VOCAB_SIZE:]).sum(1)
    assert found.ids_PK.max() < VOCAB_SIZE
    np.testing.assert_allclose(1 - np.exp(found.logprobs_PK).sum(1), padding, atol=1e-5)


def test_splitting_rows_and_sequences_changes_nothing_beyond_rounding(
    model: Any, scorer: Scorer
) -> None:
    batch = [prefill(i, 6, 9) for i in range(4)]

    whole = score(scorer, batch, vocab_size=VOCAB_SIZE)
    split = score(scorer, batch, vocab_size=VOCAB_SIZE, budget=Budget(max_logits=1, max_tokens=1))

    for a, b in zip(whole, split, strict=True):
        np.testing.assert_allclose(a.logprobs_PK, b.logprobs_PK, atol=1e-5)


def test_a_sequence_without_context_is_refused(model: Any, scorer: Scorer) -> None:
    with pytest.raises(ValueError, match=r"prefills\[0\].context_ids"):
        score(scorer, [prefill(0, context=0)], vocab_size=VOCAB_SIZE)


@pytest.mark.parametrize("shared", [1, 5, 30], ids=["one-token", "short", "long"])
def test_siblings_score_as_they_do_alone(model: Any, scorer: Scorer, shared: int) -> None:
    prompt = prefill(0, context=shared).context_ids
    own = [prefill(i, context=4, response=3 + i) for i in range(1, 5)]
    siblings = [
        dataclasses.replace(p, context_ids=np.concatenate([prompt, p.context_ids])) for p in own
    ]
    # The same rollout twice, and one that another one continues.
    siblings += [siblings[0], dataclasses.replace(siblings[1], **beginning(siblings[1], 2))]

    found = score(scorer, siblings, vocab_size=VOCAB_SIZE)

    for wanted, answer in zip(siblings, found, strict=True):
        assert_equals_direct(model, wanted, answer)


def test_a_long_branch_is_read_in_blocks_of_queries(
    model: Any, scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_QUERY_BLOCK", 3)
    prompt = prefill(0, context=20).context_ids
    siblings = [dataclasses.replace(prefill(i, response=8), context_ids=prompt) for i in range(3)]

    found = score(scorer, siblings, vocab_size=VOCAB_SIZE)

    for wanted, answer in zip(siblings, found, strict=True):
        assert_equals_direct(model, wanted, answer)


def beginning(wanted: Prefill, num_tokens: int) -> dict[str, np.ndarray]:
    return {
        "response_ids": wanted.response_ids[:num_tokens],
        "positions_P": np.arange(num_tokens),
    }


def test_bf16_stays_within_its_rounding_of_float32(model: Any, scorer: Scorer) -> None:
    half = scorer_of(copy.deepcopy(model).bfloat16(), VOCAB_SIZE)
    prompt = prefill(0, context=24).context_ids
    batch = [dataclasses.replace(prefill(i, response=12), context_ids=prompt) for i in range(6)]

    exact, rounded = (score(s, batch, vocab_size=VOCAB_SIZE) for s in (scorer, half))

    reference = [padded_bf16_gap(model, wanted) for wanted in batch]
    gaps = [
        np.abs(a.own_logprobs_P - b.own_logprobs_P).mean()
        for a, b in zip(exact, rounded, strict=True)
    ]
    # No worse than the model's own forward pass in bf16.
    assert np.mean(gaps) < 1.5 * np.mean(reference)


def padded_bf16_gap(model: Any, wanted: Prefill) -> float:
    """How far transformers' own pass in bf16 is from its pass in float32, at the own tokens."""
    ids = torch.tensor(np.concatenate([wanted.context_ids, wanted.response_ids]))[None].long()
    values = []
    for own in (model, copy.deepcopy(model).bfloat16()):
        with torch.no_grad():
            logprobs = own(input_ids=ids).logits[0].float().log_softmax(-1)
        rows = logprobs[len(wanted.context_ids) - 1 : -1]
        values.append(rows.gather(1, ids[0, len(wanted.context_ids) :, None]))
    return (values[0] - values[1]).abs().mean().item()
