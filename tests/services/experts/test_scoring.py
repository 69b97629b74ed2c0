"""Claims about scoring, against a direct forward pass of the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from preceptor_clients.answers import Distributions
from preceptor_clients.arrays import MISSING
from preceptor_services.scoring import Prefill, check_head, score

VOCAB_SIZE = 261


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Any:
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()


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


def test_entry_t_is_the_distribution_over_token_t_given_everything_before_it(model: Any) -> None:
    wanted = prefill(1)

    [found] = score(model, [wanted], vocab_size=VOCAB_SIZE)

    assert_equals_direct(model, wanted, found)


def test_a_response_shifted_by_one_shifts_the_answer_by_one(model: Any) -> None:
    whole = prefill(2)
    shifted = prefill(
        2,
        context_ids=np.append(whole.context_ids, whole.response_ids[0]),
        response_ids=whole.response_ids[1:],
        positions_P=np.arange(6),
    )

    [a], [b] = (score(model, [p], vocab_size=VOCAB_SIZE) for p in (whole, shifted))

    np.testing.assert_array_equal(a.ids_PK[1:], b.ids_PK)
    np.testing.assert_allclose(a.own_logprobs_P[1:], b.own_logprobs_P, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12)), min_size=1, max_size=6),
    data=st.data(),
)
def test_i5_a_sequence_scores_the_same_in_any_batch(
    model: Any, lengths: list[tuple[int, int]], data: st.DataObject
) -> None:
    batch = [prefill(i, context, response) for i, (context, response) in enumerate(lengths)]
    order = data.draw(st.permutations(range(len(batch))))

    together = score(model, [batch[i] for i in order], vocab_size=VOCAB_SIZE, max_logits=2_000)

    for place, index in enumerate(order):
        assert_equals_direct(model, batch[index], together[place])


def test_the_same_batch_in_the_same_order_gives_the_same_bits(model: Any) -> None:
    batch = [prefill(i, 5 + i, 3 + i) for i in range(5)]

    first, second = (score(model, batch, vocab_size=VOCAB_SIZE) for _ in range(2))

    for a, b in zip(first, second, strict=True):
        assert a.logprobs_PK.tobytes() == b.logprobs_PK.tobytes()
        assert a.ids_PK.tobytes() == b.ids_PK.tobytes()


def test_only_wanted_positions_are_answered_and_in_their_order(model: Any) -> None:
    everything, some = prefill(3), prefill(3, positions_P=np.array([0, 4, 6]))

    [all_rows], [rows] = (score(model, [p], vocab_size=VOCAB_SIZE) for p in (everything, some))

    np.testing.assert_allclose(all_rows.logprobs_PK[[0, 4, 6]], rows.logprobs_PK, atol=1e-5)


def test_candidates_are_scored_in_the_same_pass_and_empty_cells_are_missing(model: Any) -> None:
    candidates = np.array([[5, -1], [260, 7], [-1, -1]], np.int32)
    wanted = prefill(4, positions_P=np.arange(3), candidate_ids_PC=candidates)
    narrow = prefill(5, candidate_ids_PC=np.zeros((7, 1), np.int32))

    found, _ = score(model, [wanted, narrow], vocab_size=VOCAB_SIZE)

    expected = direct(model, wanted)
    values = found.candidate_logprobs_PC
    assert values is not None
    assert abs(values[0, 0] - expected[0, 5]) < 1e-5
    assert abs(values[1, 0] - expected[1, 260]) < 1e-5
    assert (values[candidates < 0] == np.float32(MISSING)).all()


def test_padded_rows_of_the_head_are_never_entries_but_keep_their_probability(model: Any) -> None:
    wanted = prefill(6, top_k=VOCAB_SIZE)

    [found] = score(model, [wanted], vocab_size=VOCAB_SIZE)

    padding = np.exp(direct(model, wanted)[:, VOCAB_SIZE:]).sum(1)
    assert found.ids_PK.max() < VOCAB_SIZE
    np.testing.assert_allclose(1 - np.exp(found.logprobs_PK).sum(1), padding, atol=1e-5)


def test_splitting_rows_and_sequences_changes_nothing_beyond_rounding(model: Any) -> None:
    batch = [prefill(i, 6, 9) for i in range(4)]

    whole = score(model, batch, vocab_size=VOCAB_SIZE)
    split = score(model, batch, vocab_size=VOCAB_SIZE, max_logits=1, max_padded_tokens=1)

    for a, b in zip(whole, split, strict=True):
        np.testing.assert_allclose(a.logprobs_PK, b.logprobs_PK, atol=1e-5)


def test_a_sequence_without_context_is_refused(model: Any) -> None:
    with pytest.raises(ValueError, match=r"prefills\[0\].context_ids"):
        score(model, [prefill(0, context=0)], vocab_size=VOCAB_SIZE)


def test_a_model_that_changes_its_logits_after_the_head_is_refused(model: Any) -> None:
    class Capped:
        device = model.device
        base_model = model.base_model
        get_output_embeddings = model.get_output_embeddings

        def __call__(self, **inputs: Any) -> Any:
            out = model(**inputs)
            out.logits = torch.tanh(out.logits)
            return out

    check_head(model, VOCAB_SIZE)
    with pytest.raises(ValueError, match="head times hidden state"):
        check_head(Capped(), VOCAB_SIZE)
