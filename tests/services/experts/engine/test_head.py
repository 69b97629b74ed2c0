"""Claims about reading the head, against a log-softmax over everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from preceptor_services.experts.engine.head import BLOCK, Entries, read_head

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("top_k", [1, 20, 64], ids=["best", "runs", "whole"])
def test_entries_are_the_best_of_a_log_softmax_over_every_row(
    dtype: torch.dtype, top_k: int
) -> None:
    head, hidden = made(dtype), states(dtype)

    found = read(head, hidden, top_k=top_k)

    # The logits themselves are rounded alike on both sides; sums over them are in float32.
    assert_is_log_softmax(head, hidden, found, VOCAB_SIZE, 1e-5 if dtype == torch.float32 else 2e-2)


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
def test_logits_of_more_rows_than_allowed_never_exist(num_logits: int) -> None:
    head, hidden = made(num_logits=num_logits), states(num_rows=9)

    whole = read(head, hidden, vocab_size=261)
    head.asked.clear()
    chunked = read(head, hidden, vocab_size=261, max_logits=2 * num_logits)

    assert {rows for rows, _ in head.asked} == {2}
    assert torch.equal(whole.ids_RK, chunked.ids_RK)
    torch.testing.assert_close(whole.logprobs_RK, chunked.logprobs_RK, atol=1e-5, rtol=0)
