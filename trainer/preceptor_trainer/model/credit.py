"""Future credit: the later costs that each sampled token is charged with.

The sequence-level gradient of `E_y[sum_t c_t]` (arXiv 2606.05152) has, beside the local term, the
score-function term

    E_y[ sum_t grad log pi(a_t|s_t) * (G_t - b_t) ],      G_t = sum_{k>t} gamma^(k-t-1) c_k

with any baseline `b_t` that does not depend on this rollout's own later actions. Everything here is
data: pure functions without gradient, filled once per optimiser step.

Why only later costs: `c_t` is a function of the state, not of the action taken in it, so earlier
costs and the cost at t itself drop out in expectation. That needs feedback that does not depend on
this rollout. Where feedback is computed from the rollout (its own traceback), `q_k` for k <= t
depends on later actions through it, and only `credit="all"` is the full gradient.

Dimensions: B rollouts, T response positions, E experts, K ids.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from preceptor_trainer.model.batch import TargetTensors
from preceptor_trainer.model.statistics import StudentStatistics

CreditRule: TypeAlias = Literal["later", "all"]
Normaliser: TypeAlias = Literal["sum", "remaining"] | float
BaselineRule: TypeAlias = Literal["none", "loo", "loo_independent"]


def cross_entropy(stats: StudentStatistics, targets: TargetTensors) -> Tensor:
    """Cross-entropy of the student to its experts on support and tail, with gradient.

    `c_t = sum_e w_te * ( -sum_k q_tek log pi_t(id_tek) - tail_te log tail_pi_te )`. The support is
    the expert's: forward cross-entropy weighs tokens by the expert, and only its own ids can pull
    up a token that the student holds improbable.

    Args:
        stats: with target log-probs.
        targets: probabilities, tails and weights of the components.

    Returns:
        [B, T] nats; 0 where no expert has an opinion.
    """
    assert stats.target_logprobs_BTEK is not None
    assert stats.tail_logprobs_BTE is not None
    # Padding holds probability 0 and the finite ABSENT: it adds exactly 0, and no gradient.
    support_BTE = (targets.probs_BTEK * stats.target_logprobs_BTEK).sum(-1)
    tail_BTE = targets.tail_BTE * stats.tail_logprobs_BTE
    return -(targets.weight_BTE * (support_BTE + tail_BTE)).sum(-1)


def target_entropy(targets: TargetTensors) -> Tensor:
    """Weighted entropy of the experts over support and tail, [B, T] nats.

    A lower bound of the true entropy: the tail counts as one token. Cross-entropy minus this is the
    KL divergence to the experts one by one, weighted, not to their mixture.
    """
    # xlogy: 0 log 0 is 0 here, as in the limit. Padding has probability 0, and an expert may have
    # no tail.
    support_BTE = torch.xlogy(targets.probs_BTEK, targets.probs_BTEK).sum(-1)
    tail_BTE = torch.xlogy(targets.tail_BTE, targets.tail_BTE)
    return -(targets.weight_BTE * (support_BTE + tail_BTE)).sum(-1)


def future_costs(
    cost_BT: Tensor,
    mask_BT: Tensor,
    *,
    owned_BT: Tensor | None = None,
    inclusion_BT: Tensor | None = None,
    gamma: float = 1.0,
    normaliser: Normaliser = "sum",
    credit: CreditRule = "later",
) -> Tensor:
    """Costs-to-go of every position.

    The mask is applied before the sums: a cost in padding, at an unlabelled position or at a token
    that the student did not write is charged to no token.

    Args:
        cost_BT: costs in nats.
        mask_BT: bool, where a cost counts.
        owned_BT: bool, tokens that the student wrote; None for all. The discount counts these
            alone, so that what a tool said between two turns puts no distance between them.
        inclusion_BT: probability of drawing a position, by which the costs are divided already;
            None for all positions. "remaining" divides its count by it too, to be a mean.
        gamma: discount per own token, 1 for the objective as stated.
        normaliser: "sum" is exact; "remaining" divides by the number of later costs, which is the
            released, biased form; a number divides by that constant.
        credit: "later" for costs strictly after t, "all" for the whole rollout's.

    Returns:
        [B, T], detached; 0 at the last position under "later".
    """
    # Detached: the score term is the gradient of log pi weighted by costs (the second line of the
    # gradient above). The derivative of the costs is the local term.
    cost_BT = torch.where(mask_BT, cost_BT.detach(), 0.0)
    if credit == "all":
        future_BT = cost_BT.sum(-1, keepdim=True).expand_as(cost_BT)
    else:
        future_BT = _discounted_later_sum(cost_BT, gamma, owned_BT)
    if normaliser == "sum":
        return future_BT
    if normaliser == "remaining":
        count_BT = mask_BT.to(cost_BT.dtype)
        if inclusion_BT is not None:
            # Each drawn position has the weight 1 / probability, in the count as in the costs.
            count_BT = count_BT / inclusion_BT
        # The count is never discounted: the released form divides a plain sum by how many it has.
        # Below 1 there are no later costs, and 0 / 1 is the credit of the last token.
        return future_BT / _discounted_later_sum(count_BT, 1.0).clamp(min=1.0)
    return future_BT / normaliser


def _discounted_later_sum(
    values_BT: Tensor, gamma: float, owned_BT: Tensor | None = None
) -> Tensor:
    """[B, T]: sum over k > t of gamma^n values_k, with n owned tokens between t and k."""
    later_BT = torch.zeros_like(values_BT)
    if gamma == 1.0:
        # One reversed running sum instead of T small ones, for the discount of the objective as
        # stated.
        later_BT[:, :-1] = values_BT[:, 1:].flip(1).cumsum(1).flip(1)
        return later_BT
    for t in range(values_BT.shape[1] - 2, -1, -1):
        beyond_B = gamma * later_BT[:, t + 1]
        if owned_BT is not None:
            beyond_B = torch.where(owned_BT[:, t + 1], beyond_B, later_BT[:, t + 1])
        later_BT[:, t] = values_BT[:, t + 1] + beyond_B
    return later_BT


def baselines(future_BT: Tensor, alive_BT: Tensor, peers_BB: Tensor) -> Tensor:
    """Leave-one-out mean over a rollout's peers at the same position.

    The rollout itself is never in the mean: including it would scale the future term by 1 - 1/G.

    Args:
        future_BT: costs-to-go.
        alive_BT: bool, where a rollout still has a token.
        peers_BB: bool, entry (i, j) says that j may serve as baseline of i.

    Returns:
        [B, T]; 0 where no peer is alive.
    """
    # A mean that includes the rollout itself depends on its actions.
    assert not peers_BB.diagonal().any()
    peers_BB = peers_BB.to(future_BT.dtype)
    alive_BT = alive_BT.to(future_BT.dtype)
    # A sibling that has ended has no costs-to-go at this position; counted as 0, it would lower the
    # mean for longer rollouts. Where no sibling is left, the clamp prevents 0 / 0 and the baseline
    # is 0, which is also unbiased.
    return peers_BB @ (future_BT * alive_BT) / (peers_BB @ alive_BT).clamp(min=1.0)


def peers(group_B: Tensor, eligible_B: Tensor, labelled_BT: Tensor, gap_BT: Tensor) -> Tensor:
    """Allowed baselines: other rollouts of the same group with the same kind of labels.

    Two rollouts have the same kind of labels if, up to the end of the shorter one, the same
    positions are unlabelled. A sparsely labelled rollout has small costs-to-go and would be a wrong
    baseline.

    Args:
        group_B: group numbers.
        eligible_B: bool, rollouts that have costs of the current policy.
        labelled_BT: bool, own tokens with a label.
        gap_BT: bool, own tokens without one.

    Returns:
        [B, B] bool, False on the diagonal.
    """
    # Converted to numbers, because torch cannot multiply boolean matrices.
    gap = gap_BT.float()
    labelled = labelled_BT.float()
    # The number of positions that are labelled in only one of the two; after the end of either both
    # masks are false, so only the common part is compared.
    differ_BB = (gap @ labelled.T + labelled @ gap.T) > 0
    same_BB = (group_B[:, None] == group_B) & (eligible_B[:, None] & eligible_B) & ~differ_BB
    return same_BB.fill_diagonal_(False)


def independence(rollout_ids: Sequence[str], uses: Sequence[frozenset[str]]) -> Tensor:
    """[B, B] bool: entry (i, j) says that j's target does not depend on rollout i.

    A baseline of a sibling whose demonstration depends on this rollout depends on this rollout's
    actions and is biased.
    """
    return torch.tensor([[i not in used for used in uses] for i in rollout_ids])
