"""From a model to student statistics: the forward pass, and the head on response positions only.

A `Head` turns the hidden states that predict response tokens into `StudentStatistics`. The dense
one here forms all logits of the call at once; a head that never holds them all has the same type.

    stats = student_statistics(model, batch, Needs(target_logprobs=True))

Left out on purpose: the sampler's temperature. Student and expert are compared at temperature 1,
the distribution that the objective is about.

Dimensions: N real response positions of a batch, H of a hidden state, V vocabulary, I ids to score;
B rows, T response positions, E components of a target, K ids of one, C candidate ids.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.model.statistics import ABSENT, Needs, StudentStatistics, log_tail_mass
from preceptor_trainer.model.trunk import CausalModel, Trunk, padded


class Head(Protocol):
    """Hidden states in, statistics out."""

    def __call__(
        self, hidden_NH: Tensor, output: nn.Module, batch: TrainBatch, needs: Needs
    ) -> StudentStatistics:
        """Compute what is needed at the N real response positions of the batch, row by row."""
        ...


def student_statistics(
    model: CausalModel,
    batch: TrainBatch,
    needs: Needs,
    *,
    trunk: Trunk = padded,
    head: Head | None = None,
) -> StudentStatistics:
    """Run the policy over the batch and reduce its logits to statistics."""
    return (head or dense_head)(trunk(model, batch), model.get_output_embeddings(), batch, needs)


def dense_head(
    hidden_NH: Tensor, output: nn.Module, batch: TrainBatch, needs: Needs
) -> StudentStatistics:
    """Statistics through a full [N, V] logit matrix.

    Args:
        hidden_NH: hidden states that predict the N real response tokens, in row-major order of
            `batch.response_mask_BT`.
        output: the output embedding.
        batch: names the ids to look at.
        needs: what to compute beside the sampled log-probs.

    Returns:
        Statistics in [B, T, ...]; padding and empty ids hold ABSENT.
    """
    # The logits are converted, not only the normaliser: log-probs are differences of logits and
    # logsumexp, and 16 bits leave an error of about .03 nats over a vocabulary of 50,000.
    logits_NV = _at_least_float32(output(hidden_NH))
    real = batch.response_mask_BT
    targets = batch.targets
    num_experts, num_ids = targets.ids_BTEK.shape[2:]
    # One gather for all ids: each gather's backward pass would write its own [N, V] gradient.
    wanted = [batch.response_ids_BT[real][:, None]]
    if needs.target_logprobs:
        wanted.append(targets.ids_BTEK[real].flatten(1))
    if needs.num_candidates:
        wanted.append(targets.candidate_ids_BTC[real])
    ids_NI = torch.cat(wanted, dim=1)
    # Normalised over the whole vocabulary, also where an expert returned K ids: ratios and tails
    # are wrong with a truncated normaliser. -1 is not a valid column; the value read for it is
    # replaced in the next line, which also stops its gradient.
    logprobs_NI = logits_NV.gather(1, ids_NI.clamp(min=0)) - logits_NV.logsumexp(1, keepdim=True)
    logprobs_NI = torch.where(ids_NI >= 0, logprobs_NI, ABSENT)
    sampled_N1, *looked_at = torch.split(logprobs_NI, [part.shape[1] for part in wanted], dim=1)

    target_BTEK = tail_BTE = candidate_BTC = entropy_BT = None
    if needs.target_logprobs:
        target_NEK = looked_at.pop(0).reshape(len(hidden_NH), num_experts, num_ids)
        # From the student's mass on the ids: this is the student's tail, not the expert's.
        tail_NE = log_tail_mass(target_NEK, targets.ids_BTEK[real] >= 0)
        target_BTEK, tail_BTE = _spread(target_NEK, real), _spread(tail_NE, real)
    if needs.num_candidates:
        candidate_BTC = _spread(looked_at.pop(0), real)
    if needs.entropy:
        # Without gradient, because the graph would hold another [N, V] tensor for a metric.
        entropy_BT = _spread(_entropy(logits_NV.detach()), real, absent=0.0)
    return StudentStatistics(
        sampled_logprobs_BT=_spread(sampled_N1[:, 0], real),
        target_logprobs_BTEK=target_BTEK,
        tail_logprobs_BTE=tail_BTE,
        candidate_logprobs_BTC=candidate_BTC,
        entropy_BT=entropy_BT,
    )


def _at_least_float32(logits: Tensor) -> Tensor:
    # Only to higher precision: a float64 model is used for gradient checks.
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _entropy(logits_NV: Tensor) -> Tensor:
    logprobs_NV = logits_NV.log_softmax(1)
    return -(logprobs_NV.exp() * logprobs_NV).sum(1)


def _spread(values_N: Tensor, real_BT: Tensor, absent: float = ABSENT) -> Tensor:
    """Put per-position values [N, ...] back into [B, T, ...]."""
    out = values_N.new_full((*real_BT.shape, *values_N.shape[1:]), absent)
    return out.index_put((real_BT,), values_N)
