"""Tokens drawn from logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from preceptor_trainer.sampling.draw import BLOCK, draw, truncate
from preceptor_trainer.sampling.params import SamplingParams


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_tokens_come_as_often_as_their_probability_says() -> None:
    probabilities = torch.tensor([0.5, 0.2, 0.3])
    uniforms = torch.arange(1000, dtype=torch.float64) / 1000

    tokens, _ = draw(probabilities.log().repeat(1000, 1), SamplingParams(), uniforms)

    assert torch.bincount(tokens, minlength=3).tolist() == pytest.approx([500, 200, 300], abs=1)


@pytest.mark.parametrize("num_ids", [BLOCK, BLOCK + 1, 3 * BLOCK, 49_152])
def test_a_large_vocabulary_is_drawn_from_as_by_one_sum_over_all_ids(num_ids: int) -> None:
    logprobs = (3 * torch.randn(64, num_ids, generator=seeded(0))).log_softmax(-1)
    uniforms = torch.rand(64, generator=seeded(1), dtype=torch.float64)

    tokens, _ = draw(logprobs, SamplingParams(), uniforms)

    sums = logprobs.exp().cumsum(-1, dtype=torch.float64)
    wanted = torch.searchsorted(sums, uniforms[:, None] * sums[:, -1:], right=True)
    assert torch.equal(tokens, wanted[:, 0])


@pytest.mark.parametrize("num_ids", [64, 3 * BLOCK + 5])
def test_what_has_no_probability_is_not_drawn_at_either_end(num_ids: int) -> None:
    logits = torch.full((2, num_ids), -torch.inf)
    logits[:, num_ids // 2 : num_ids // 2 + 3] = torch.tensor([0.0, -1.0, 2.0])
    uniforms = torch.tensor([0.0, float(np.nextafter(1, 0))], dtype=torch.float64)

    tokens, _ = draw(logits, SamplingParams(), uniforms)

    assert tokens.tolist() == [num_ids // 2, num_ids // 2 + 2]


@pytest.mark.parametrize("num_ids", [64, 3 * BLOCK + 5])
def test_a_row_from_which_nothing_can_be_drawn_shows_in_its_log_prob(num_ids: int) -> None:
    logits = torch.zeros(3, num_ids + 8)
    logits[1] = torch.nan
    logits[2, :num_ids] = -torch.inf  # all that is left is no token

    tokens, logprobs = draw(logits, SamplingParams(), torch.full((3,), 0.5).double(), num_ids)

    assert int(tokens.max()) < num_ids
    assert logprobs[0] == pytest.approx(-np.log(num_ids + 8), abs=1e-5)
    assert torch.isnan(logprobs[1])
    assert logprobs[2] == -torch.inf


def test_truncation_keeps_the_smallest_sufficient_set() -> None:
    logprobs = torch.tensor([[0.5, 0.1, 0.3, 0.1]]).log()

    kept = truncate(logprobs, SamplingParams(top_p=0.6)).exp()
    top = truncate(logprobs, SamplingParams(top_k=1)).exp()

    assert kept[0].tolist() == pytest.approx([0.625, 0, 0.375, 0])
    assert top[0].tolist() == pytest.approx([1, 0, 0, 0])


def test_padding_is_not_among_the_best_that_are_kept() -> None:
    logits = torch.tensor([[1.0, 0.0, 5.0, 5.0]])

    token, logprob = draw(logits, SamplingParams(top_k=1), torch.tensor([0.9]), vocab_size=2)

    assert (int(token), float(logprob)) == (0, 0.0)
