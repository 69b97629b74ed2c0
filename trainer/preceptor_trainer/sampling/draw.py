"""Drawing tokens from logits: temperature, truncation, and the inverse of the distribution.

    tokens_B, logprobs_B = draw(logits_BV, params, uniform_B)

Dimensions: B responses in flight, V vocabulary, K blocks of W ids, X indices of any kind.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from preceptor_trainer.sampling.params import SamplingParams

BLOCK: Final = 1024
"""Ids whose masses are added first, where the vocabulary is larger."""


def draw(
    logits_BV: Tensor, params: SamplingParams, uniform_B: Tensor, vocab_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Draws one token per row by inversion.

    Args:
        logits_BV: `[B, V]` float32.
        params: Temperature and truncation.
        uniform_B: `[B]` float64 in [0, 1).
        vocab_size: Only ids below it are drawn.

    Returns:
        Tokens `[B]` and their log-probs `[B]` under the truncated distribution; without truncation
        they are the model's own, normalised over padding too.
    """
    # Temperature first, as servers do: the truncation uses the tempered distribution.
    scaled_BV = logits_BV if params.temperature == 1.0 else logits_BV / params.temperature
    tempered_BV = scaled_BV.log_softmax(-1)
    logprobs_BV = truncate(tempered_BV[:, :vocab_size], params)
    token_B1 = _inverted(logprobs_BV.exp(), uniform_B)
    return token_B1[:, 0], logprobs_BV.gather(1, token_B1)[:, 0]


def _inverted(mass_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Ids `[B, 1]` at which the sum of masses passes a uniform share of the whole.

    Sums are in float64: in a float32 sum, a quarter of 150,000 random ids do not change the sum,
    and could never be drawn. They are of blocks first, and of ids in one block only, because every
    sum of a large vocabulary is twice the memory of its logits.
    """
    num_rows, num_ids = mass_BV.shape
    if num_ids <= BLOCK:
        sums_BV = mass_BV.cumsum(-1, dtype=torch.float64)
        return _first_above(sums_BV, uniform_B[:, None] * sums_BV[:, -1:])
    mass_BKW = nn.functional.pad(mass_BV, (0, -num_ids % BLOCK)).view(num_rows, -1, BLOCK)
    sums_BK = mass_BKW.sum(-1, dtype=torch.float64).cumsum(-1)
    threshold_B1 = uniform_B[:, None] * sums_BK[:, -1:]
    block_B1 = _first_above(sums_BK, threshold_B1)
    before_B1 = nn.functional.pad(sums_BK, (1, 0)).gather(1, block_B1)
    rows_B = torch.arange(num_rows, device=mass_BV.device)
    within_BW = mass_BKW[rows_B, block_B1[:, 0]].cumsum(-1, dtype=torch.float64)
    token_B1 = block_B1 * BLOCK + _first_above(within_BW, threshold_B1 - before_B1)
    return token_B1.clamp_max(num_ids - 1)


def _first_above(sums_BX: Tensor, threshold_B1: Tensor) -> Tensor:
    """The first index `[B, 1]` whose sum is above the threshold.

    Never one that adds nothing: also not where the threshold is 0, and where rounding raises it to
    the last sum, above which there is no index. A row of zeros or NaN has no such index, and gets
    its last one: its log-prob says what happened, and on a GPU an index beyond the row would end
    the process.
    """
    below_last_B1 = torch.nextafter(sums_BX[:, -1:], sums_BX.new_zeros(()))
    threshold_B1 = torch.minimum(threshold_B1, below_last_B1)
    found_B1 = torch.searchsorted(sums_BX, threshold_B1, right=True)
    return found_B1.clamp_max(sums_BX.shape[-1] - 1)


def truncate(logprobs_BV: Tensor, params: SamplingParams) -> Tensor:
    """Applies top-k, then top-p, and renormalises; dropped tokens have minus infinity."""
    if params.top_k == 0 and params.top_p == 1.0:
        return logprobs_BV
    # A stable sort: among equal log-probs the lower id is kept, on every machine.
    sorted_BV, order_BV = logprobs_BV.sort(dim=-1, descending=True, stable=True)
    if params.top_k:
        sorted_BV[:, params.top_k :] = -torch.inf
        # Renormalised in between: top-p is a share of the mass that top-k keeps.
        sorted_BV = sorted_BV.log_softmax(-1)
    mass_before_BV = sorted_BV.exp().cumsum(-1) - sorted_BV.exp()
    # By the mass before a token, so that the token that crosses the bound is kept.
    beyond_BV = mass_before_BV >= params.top_p
    # At least one token is kept, also after rounding.
    beyond_BV[:, 0] = False
    sorted_BV = sorted_BV.masked_fill(beyond_BV, -torch.inf).log_softmax(-1)
    return torch.empty_like(sorted_BV).scatter_(1, order_BV, sorted_BV)
