"""Claims about reading the head, against a log-softmax over everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from preceptor_services.experts.engine.head import (
    BLOCK,
    SWEPT_COLUMNS,
    Entries,
    read_head,
)

NUM_LOGITS = 2 * BLOCK + 700
VOCAB_SIZE = NUM_LOGITS - 613
"""The last runs hold padding alone, and one holds both."""


@dataclass
class LinearHead:
    """Hidden states times a matrix; it remembers the shapes that it was asked for."""

    weight_VH: Tensor
    asked: list[tuple[int, int]] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return self.weight_VH.device

    @property
    def num_logits(self) -> int:
        return len(self.weight_VH)

    @property
    def logits_dtype(self) -> torch.dtype:
        return self.weight_VH.dtype

    def plan(self, sequences: Sequence[np.ndarray], max_tokens: int) -> list[list[int]]:
        raise NotImplementedError

    def hidden(self, sequences: Sequence[np.ndarray], places: Sequence[np.ndarray]) -> Tensor:
        raise NotImplementedError

    def logits(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        self.asked.append((len(hidden), stop - start))
        return hidden @ self.weight_VH[start:stop].T


def made(dtype: torch.dtype = torch.float32, num_logits: int = NUM_LOGITS) -> LinearHead:
    generator = torch.Generator().manual_seed(1)
    return LinearHead(torch.randn(num_logits, 16, generator=generator).to(dtype))


def states(dtype: torch.dtype = torch.float32, num_rows: int = 9) -> Tensor:
    return torch.randn(num_rows, 16, generator=torch.Generator().manual_seed(2)).to(dtype)


def read(head: LinearHead, hidden: Tensor, **changed: int) -> Entries:
    settings = {"top_k": 5, "vocab_size": VOCAB_SIZE, "max_logits": 10**9} | changed
    asked = asked_ids(len(hidden), settings["vocab_size"])
    asked[0, 1] = -1
    return read_head(head, hidden, asked, **settings)


def asked_ids(num_rows: int, vocab_size: int) -> Tensor:
    return torch.arange(3 * num_rows).reshape(num_rows, 3) * 211 % vocab_size


def assert_is_log_softmax(
    head: LinearHead, hidden: Tensor, found: Entries, vocab_size: int, tolerance: float
) -> None:
    logits_RV = (hidden @ head.weight_VH.T).double()
    logprobs_RV = logits_RV.log_softmax(-1)
    wanted_RK = logprobs_RV[:, :vocab_size].topk(found.ids_RK.shape[1]).values
    at_ids_RK = logprobs_RV.gather(1, found.ids_RK.long())
    asked_RA = asked_ids(len(hidden), vocab_size)
    gap_RA = (logprobs_RV.gather(1, asked_RA) - found.asked_logprobs_RA).abs()
    gap_RA[0, 1] = 0.0
    assert (wanted_RK - found.logprobs_RK).abs().max() < tolerance
    assert (at_ids_RK - found.logprobs_RK).abs().max() < tolerance
    assert gap_RA.max() < tolerance
    assert int(found.ids_RK.max()) < vocab_size
    assert all(len(set(row)) == len(row) for row in found.ids_RK.tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("top_k", [1, 20, 64], ids=["best", "runs", "whole"])
def test_entries_are_the_best_of_a_log_softmax_over_every_row(
    dtype: torch.dtype, top_k: int
) -> None:
    head, hidden = made(dtype), states(dtype)

    found = read(head, hidden, top_k=top_k)

    # The logits themselves are rounded alike on both sides; sums over them are in float32.
    assert_is_log_softmax(
        head, hidden, found, VOCAB_SIZE, 2e-2 if dtype == torch.bfloat16 else 1e-5
    )


@pytest.mark.parametrize("vocab_size", [VOCAB_SIZE, BLOCK, BLOCK + 1, NUM_LOGITS])
def test_padding_counts_in_the_normaliser_and_is_never_an_entry(vocab_size: int) -> None:
    head, hidden = made(), states()
    head.weight_VH[vocab_size:] = hidden[0]  # in the first row, far above everything real

    found = read(head, hidden, vocab_size=vocab_size)

    assert_is_log_softmax(head, hidden, found, vocab_size, 1e-5)


def test_a_small_vocabulary_is_read_whole() -> None:
    head, hidden = made(num_logits=270), states()

    found = read(head, hidden, top_k=261, vocab_size=261)

    assert_is_log_softmax(head, hidden, found, 261, 1e-5)


def test_best_entries_that_lie_in_one_run_are_all_found() -> None:
    head, hidden = made(), states(num_rows=1)
    head.weight_VH[300:320] = hidden[0] * torch.linspace(2, 3, 20)[:, None]

    found = read(head, hidden, top_k=20)

    assert found.ids_RK[0].tolist() == list(range(319, 299, -1))


@pytest.mark.parametrize("num_logits", [NUM_LOGITS, 270])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_more_logits_than_allowed_never_exist(num_logits: int, dtype: torch.dtype) -> None:
    head, hidden = made(dtype, num_logits), states(dtype, num_rows=9)
    # Of a type that is read in blocks, by as many threads as there are.
    in_blocks = num_logits > BLOCK and dtype == torch.float32
    allowed = 2 * (torch.get_num_threads() * SWEPT_COLUMNS if in_blocks else num_logits)

    whole = read(head, hidden, vocab_size=261)
    head.asked.clear()
    chunked = read(head, hidden, vocab_size=261, max_logits=allowed)

    assert {rows for rows, _ in head.asked} == {2}
    assert all(rows * columns <= allowed for rows, columns in head.asked)
    assert torch.equal(whole.ids_RK, chunked.ids_RK)
    torch.testing.assert_close(whole.logprobs_RK, chunked.logprobs_RK, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_equal_logits_the_lower_ids_are_entries(dtype: torch.dtype) -> None:
    head, hidden = made(dtype), states(dtype, num_rows=2)
    head.weight_VH[:] = 0.0
    head.weight_VH[BLOCK + 5] = hidden[0]

    found = read(head, hidden, top_k=4)

    assert found.ids_RK[0].tolist() == [BLOCK + 5, 0, 1, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), -float("nan"), float("inf")])
def test_a_logit_that_is_no_number_shows_in_every_log_prob_of_its_row(
    dtype: torch.dtype, value: float
) -> None:
    head, hidden = made(dtype), states(dtype, num_rows=2).abs()
    head.weight_VH[BLOCK + 9] = 0.0
    head.weight_VH[BLOCK + 9, 0] = value
    hidden[1, 0] = 0.0 if value != value else -1.0

    found = read(head, hidden)

    assert not found.logprobs_RK[0].isfinite().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_below_zero_are_read_to_the_bit(dtype: torch.dtype) -> None:
    head, hidden = made(dtype), states(dtype).abs()
    head.weight_VH.abs_().neg_()

    found = read(head, hidden, top_k=40)

    logits_RV = (hidden @ head.weight_VH.T).float()
    wanted_RK = logits_RV.gather(1, found.ids_RK.long()) - logits_RV.logsumexp(-1, keepdim=True)
    torch.testing.assert_close(found.logprobs_RK, wanted_RK, atol=2e-5, rtol=0)
    assert_is_log_softmax(head, hidden, found, VOCAB_SIZE, 2e-5)


def test_masked_logits_are_never_entries_and_weigh_nothing() -> None:
    head, hidden = made(), states().abs()
    head.weight_VH[1:200, 0] = -float("inf")  # none of them asked

    found = read(head, hidden)

    assert_is_log_softmax(head, hidden, found, VOCAB_SIZE, 1e-5)
    assert not ((found.ids_RK >= 1) & (found.ids_RK < 200)).any()


def test_rows_get_the_same_bits_however_many_threads_read_them() -> None:
    head, hidden = made(torch.bfloat16), states(torch.bfloat16, num_rows=300)
    before = torch.get_num_threads()
    found: list[Entries] = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(read(head, hidden))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)

    assert len({rows for rows, _ in head.asked}) > 1
    for other in found[1:]:
        assert torch.equal(found[0].ids_RK, other.ids_RK)
        assert torch.equal(found[0].logprobs_RK, other.logprobs_RK)
        assert torch.equal(found[0].asked_logprobs_RA, other.asked_logprobs_RA)
