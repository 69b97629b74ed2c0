"""The sampled tokens: the experts' log-probs of them, and the policy that sampled them.

An objective with one id per position uses the experts' log-prob of the student's own token. This is
an expectation over that token only where the student sampled it: a forced token, or one of a given
rollout, has no such term.

Dimensions: B rollouts of a batch, T response positions, E components of a target.
"""

import torch
from torch import Tensor

from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.model.statistics import StudentStatistics


def expert_logprobs(batch: TrainBatch) -> tuple[Tensor, Tensor]:
    """Weighted mean of the experts' log-probs of the sampled tokens.

    Reverse KL is linear in `log q`, so this mean serves for the weighted sum of the divergences to
    each. The weight of an expert without a log-prob of the token goes to the other experts.

    Args:
        batch: holds the targets.

    Returns:
        [B, T] log-probs, 0 where unknown, and [B, T] bool where at least one expert has one.
    """
    targets = batch.targets
    # An expert with an opinion may not have the log-prob of this token, for example one that
    # returns only k ids. The other experts share its weight, as in targets where an expert is
    # missing.
    weight_BTE = targets.weight_BTE * targets.own_mask_BTE
    total_BT = weight_BTE.sum(-1)
    known_BT = batch.owned_BT & (total_BT > 0)
    logprobs_BTE = torch.where(targets.own_mask_BTE, targets.own_logprobs_BTE, 0.0)
    # Divided by 1 where no expert knows the token: 0 / 0 would be NaN, also under a later mask.
    mean_BT = (weight_BTE * logprobs_BTE).sum(-1) / torch.where(known_BT, total_BT, 1.0)
    return torch.where(known_BT, mean_BT, 0.0), known_BT


def sampled(batch: TrainBatch) -> Tensor:
    """[B, T] bool: tokens drawn from this policy, or from an older one with recorded log-probs."""
    return batch.owned_BT & (batch.on_policy_B[:, None] | batch.behaviour_mask_BT)


def anchors(stats: StudentStatistics, batch: TrainBatch) -> Tensor:
    """Log-probs that ratios are taken against.

    Those of the policy before the step; in rollouts of an older policy, those that it reported.
    """
    # Only where they are recorded; a given rollout was not sampled from a policy.
    stale_BT = ~batch.on_policy_B[:, None] & batch.behaviour_mask_BT
    logprobs_BT = stats.sampled_logprobs_BT.detach()
    return torch.where(stale_BT, batch.behaviour_logprobs_BT.to(logprobs_BT.dtype), logprobs_BT)


def reverse_kl_score(stats: StudentStatistics, batch: TrainBatch) -> Tensor:
    """Reverse KL to the experts as a score term at the sampled token.

        sg( log pi(a_t) - log q(a_t) ) * log pi(a_t)

    Over sampled tokens its expected gradient is that of `KL(pi || q)`; its value is not that
    divergence.

    Args:
        stats: of the policy now, with gradient.
        batch: holds the targets.

    Returns:
        [B, T], 0 where the token was not sampled or no expert knows it.
    """
    expert_BT, known_BT = expert_logprobs(batch)
    # Detached, because it is the weight of a score term: its own derivative would add the gradient
    # of minus the entropy, another objective.
    gap_BT = stats.sampled_logprobs_BT.detach() - expert_BT
    taken_BT = known_BT & sampled(batch)
    return torch.where(taken_BT, gap_BT * stats.sampled_logprobs_BT / batch.inclusion_BT, 0.0)
