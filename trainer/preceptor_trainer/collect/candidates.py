"""The student's most probable ids and its entropy at every position, for queries to experts.

Divergences that weigh ids by the student (reverse KL, Jensen-Shannon) need the experts' log-probs
of the student's ids, which may not be in an expert's own top-k. Experts that score only a few
positions may choose them by the student's entropy. Each is one forward pass of the policy that
sampled the rollouts, without gradient.

Dimensions: T response positions, C ids, N positions of a batch, R of them at a time, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from preceptor_trainer.collect.rollouts import Rollout
from preceptor_trainer.model.batch import TrainBatch, TrainRollout, make_batches
from preceptor_trainer.model.trunk import Trunk, padded

TOKEN_BUDGET: Final = 4_096
"""Padded tokens of one forward pass."""

LOGIT_BYTES: Final = 256 << 20
"""Bytes of float32 logits at a time; of a vocabulary of 151,936, some 440 positions."""


@torch.no_grad()
def student_top_k(
    model: nn.Module,
    rollouts: Sequence[Rollout],
    num_ids: int,
    vocab_size: int,
    trunk: Trunk = padded,
) -> list[NDArray[np.int32]]:
    """The `num_ids` most probable ids of `model` at every response position.

    Args:
        model: the policy that the rollouts were sampled from.
        rollouts: in any order; ids must be unique.
        num_ids: C; the whole vocabulary where it is smaller.
        vocab_size: ids from here on are padding of the embedding, which no expert scores.
        trunk: how `model` reads a batch.

    Returns:
        One [T, C] array per rollout, most probable first.
    """
    return _per_rollout(
        rollouts,
        lambda batch: _reduced(
            model, trunk, batch, vocab_size, lambda logits_RV: _top_k(logits_RV, num_ids)
        ),
    )


@torch.no_grad()
def student_entropy(
    model: nn.Module, rollouts: Sequence[Rollout], vocab_size: int, trunk: Trunk = padded
) -> list[NDArray[np.float32]]:
    """The entropy of `model` at every response position, in nats: one [T] array per rollout.

    Args:
        model: the policy that the rollouts were sampled from.
        rollouts: in any order; ids must be unique.
        vocab_size: ids from here on are padding of the embedding.
        trunk: how `model` reads a batch.
    """
    return _per_rollout(rollouts, lambda batch: _reduced(model, trunk, batch, vocab_size, _entropy))


def _per_rollout(
    rollouts: Sequence[Rollout], per_position: Callable[[TrainBatch], NDArray[Any]]
) -> list[NDArray[Any]]:
    """The results of `per_position` for batches, [N, ...], as one array per rollout."""
    rows = [
        TrainRollout(
            rollout_id=r.rollout_id,
            group=r.group,
            prompt_ids=r.prompt_ids,
            response_ids=r.response_ids.tolist(),
        )
        for r in rollouts
    ]
    found: dict[str, NDArray[Any]] = {}
    for batch in make_batches(rows, token_budget=TOKEN_BUDGET):
        lengths = batch.response_mask_BT.sum(-1).numpy()
        parts = np.split(per_position(batch), np.cumsum(lengths)[:-1])
        found.update(zip(batch.rollout_ids, parts, strict=True))
    return [found[r.rollout_id] for r in rollouts]


def _top_k(logits_NV: torch.Tensor, num_ids: int) -> NDArray[np.int32]:
    """[N, C], most probable first."""
    best = logits_NV.topk(min(num_ids, logits_NV.shape[1]), dim=-1)
    return best.indices.to(torch.int32).cpu().numpy()


def _entropy(logits_NV: torch.Tensor) -> NDArray[np.float32]:
    """[N] in nats."""
    logprobs_NV = logits_NV.float().log_softmax(-1)
    entropy_N = -(logprobs_NV.exp() * logprobs_NV).sum(-1)
    return entropy_N.clamp_min(0.0).cpu().numpy()


def _reduced(
    model: Any,
    trunk: Trunk,
    batch: TrainBatch,
    vocab_size: int,
    reduce: Callable[[torch.Tensor], NDArray[Any]],
) -> NDArray[Any]:
    """[N, ...] of the batch's real positions, row by row, from the logits of a part at a time."""
    hidden_NH = trunk(model, batch.to(next(model.parameters()).device))
    output = model.get_output_embeddings()
    num_rows = max(1, LOGIT_BYTES // (4 * vocab_size))
    parts = torch.split(hidden_NH, num_rows)
    return np.concatenate([reduce(output(part_RH)[:, :vocab_size]) for part_RH in parts])
