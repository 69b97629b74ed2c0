"""DistIL: forward cross-entropy to experts on the student's own rollouts, one sequence objective.

    L(theta) = E_{y ~ pi_theta}[ sum_t c_t ],    c_t = CE( q_t, pi_theta(.|s_t) )

    grad L   = E_y[ sum_t grad c_t ]                                        local term
             + E_y[ sum_t grad log pi_theta(a_t|s_t) * sum_{i>t} c_i ]      future term

Source: arXiv 2606.05152. `q_t` is an expert's next-token distribution in state `s_t = (x, y_<t)`,
often the policy itself with feedback `f` in view; no gradient flows through it. The default is the
exact estimator of this gradient with a leave-one-out baseline.

    DistIL()                                        # exact
    DistIL(future="none")                           # local term only: tokenwise forward KL
    DistIL(future="kl")                             # KL-to-go: no charge for the expert's entropy
    DistIL(normaliser="remaining", baseline="none", divide_by="tokens",
           importance=TruncatedImportance())        # as released, but on the experts' ids

Caution. The gradient above holds `f` fixed. When feedback is computed from the rollout itself,
`q_t` depends on later actions through it, and the gradient has all costs in the future term:
`credit="all"` is that gradient, with more variance. The paper's algorithm is `later`. Where only
failures have a teacher, its presence also depends on the rollout: under `all` a rollout without a
teacher has cost 0 and is compared with its siblings like any other, since a baseline of rollouts
with a teacher only would be biased. In the same way a leave-one-out baseline is unbiased only over
siblings whose target does not use this rollout (`loo_independent`). Siblings that demonstrate to
each other bias the future term under `loo`: by 2 to 8 % in enumerated pairs whose teachers of
success and failure are close, by 13 to 44 % where the two are unrelated.
`benchmarks/exact_gradient.py` measures all of this.

Caution. Costs are positive and the last token has none after it, so CE-to-go prefers short
responses wherever experts keep some entropy. Watch the response length; `future="kl"` is neutral at
the optimum and gives up the signal in the expert's confidence.

Rollouts of an older policy keep both terms by importance weights of the tokens before each cost
(`objectives/staleness.py`); `stale=StaleWeights(of="none")` leaves them the local term.

Denominators. Exact DistIL divides by the number of sampled rollouts times a constant. Rollouts
without a teacher count: the loss is then an average of `1[teacher] * sum_t c_t` over what the
policy samples, an expectation with a gradient. Dividing by what happened to be labelled, or by
the number of sampled tokens as the released code does (`divide_by="tokens"`, here over the whole
step), makes a ratio estimator, which is the gradient of neither.

Left out on purpose: the student's top-k as support (released; it cannot pull up a token outside
it; so no switches here are the released estimator in full), the clamp of costs at zero (they cannot
be negative), normalised advantages, and the released mathematics variant, whose second term is no
score function.

Dimensions: B rollouts of a batch, R of the whole step, T response positions, E components of a
target.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from preceptor_trainer.model.batch import KINDS, TrainBatch
from preceptor_trainer.model.credit import (
    BaselineRule,
    CreditRule,
    Normaliser,
    baselines,
    cross_entropy,
    future_costs,
    independence,
    peers,
    target_entropy,
)
from preceptor_trainer.model.statistics import Needs, Reads, StudentStatistics
from preceptor_trainer.objectives import Advantages, PlannedRun
from preceptor_trainer.objectives.checks import (
    one_of,
    positive,
    require_entropies,
    require_experts,
    require_policy_samples,
)
from preceptor_trainer.objectives.importance import TruncatedImportance
from preceptor_trainer.objectives.metrics import Mean, batch_metrics, mean_over
from preceptor_trainer.objectives.staleness import StaleWeights


@dataclass(frozen=True, kw_only=True)
class DistIL:
    """The switches of DistIL; the defaults are the exact gradient with feedback held fixed."""

    local: bool = True
    """The dense term: the gradient of each position's own cost."""
    future: Literal["ce", "kl", "none"] = "ce"
    """The cost that earlier tokens are charged with, or no future term."""
    credit: CreditRule = "later"
    """Charge a token with later costs, or with all costs of its rollout."""
    normaliser: Normaliser = "sum"
    """Sum of later costs (exact), their mean ("remaining"), or the sum over a constant."""
    gamma: float = 1.0
    """Discount of later costs per position; below 1 is a choice of bias for variance."""
    baseline: BaselineRule = "loo"
    """What is subtracted from the costs-to-go: siblings' mean at the same position, or nothing."""
    advantage_clip: float | None = None
    """Bound on the score term's weight in nats; biased, and off by default."""
    importance: TruncatedImportance | None = None
    """Corrects both terms for a sampler that is not the policy."""
    stale: StaleWeights = StaleWeights()
    """Weighs both terms of rollouts that an older policy sampled, where there is a future term.
    Under `credit="all"` the weight is the whole rollout's, because costs depend on it."""
    divide_by: Literal["rollouts", "tokens"] = "rollouts"
    """Sampled rollouts times `length_constant` (exact), or tokens of rollouts with a teacher."""
    length_constant: float = 1.0
    """Only scales the loss; a typical response length makes it comparable to a token mean."""

    def __post_init__(self) -> None:
        one_of("future", self.future, ("ce", "kl", "none"))
        one_of("credit", self.credit, ("later", "all"))
        one_of("baseline", self.baseline, ("none", "loo", "loo_independent"))
        one_of("divide_by", self.divide_by, ("rollouts", "tokens"))
        if isinstance(self.normaliser, str):
            one_of("normaliser", self.normaliser, ("sum", "remaining"))
        else:
            positive("normaliser", self.normaliser)
        positive("length_constant", self.length_constant)
        if self.advantage_clip is not None:
            positive("advantage_clip", self.advantage_clip)
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma must be in (0, 1], not {self.gamma}")
        if not self.local and self.future == "none":
            raise ValueError("local=False with future='none' leaves nothing to train")
        if self.credit == "all" and (self.gamma != 1 or self.normaliser == "remaining"):
            raise ValueError(
                f"credit='all' charges past costs too: gamma={self.gamma} and "
                f"normaliser={self.normaliser!r} are defined for later costs only"
            )

    @property
    def needs(self) -> Needs:
        """Log-probs on the experts' supports; entropy is for the metrics."""
        return Needs(target_logprobs=True, entropy=True)

    def reads(self, batch: TrainBatch) -> Reads:
        """Costs-to-go and their baselines are of the same and later positions.

        Weights of stale rollouts are of earlier ones.
        """
        if bool(self._stale(batch).any()):
            return "all"
        return "own" if self.future == "none" else self.credit

    def check(self, plan: PlannedRun) -> None:
        """Refuse samplers whose rollouts are not the policy's, unless they are re-weighted.

        Raises:
            ValueError: no experts, or temperature, top-p or top-k change the distribution that the
                future term differentiates and `importance` is off.
        """
        require_experts(plan)
        if self.future == "kl":
            require_entropies(plan)
        if self.future == "none" or self.importance is not None:
            return
        require_policy_samples(
            plan, "set importance=TruncatedImportance(), future='none', or sample from the policy"
        )

    def advantages(
        self, statistics: Sequence[StudentStatistics], batches: Sequence[TrainBatch]
    ) -> list[Advantages]:
        """Costs-to-go minus baselines for every row of the step.

        Args:
            statistics: of the policy before the step, batch by batch; gradients are ignored.
            batches: all batches of the step (or all that hold a group's rows).

        Returns:
            One entry per batch; 0 where a token carries no score term.

        Raises:
            ValueError: the targets do not admit the future term that is switched on.
        """
        weights = [
            self._stale_weights(stats.sampled_logprobs_BT.detach(), batch)
            for stats, batch in zip(statistics, batches, strict=True)
        ]
        costs = [
            self._costs_to_charge(stats.detach(), batch) * before_BT
            for stats, batch, (before_BT, _) in zip(statistics, batches, weights, strict=True)
        ]
        # All rows of the step together: a sibling in the baseline may be in another batch.
        after_RT = _join([after_BT for _, after_BT in weights], value=1.0)
        advantage_RT = self._advantage(_join(costs), after_RT, batches)
        rows = torch.split(advantage_RT, [batch.num_rollouts for batch in batches])
        return [
            Advantages(
                # Joined rows are padded to the longest response of the step; a batch has its own.
                advantage_BT=rows_BT[:, : batch.response_mask_BT.shape[1]],
                old_logprobs_BT=stats.sampled_logprobs_BT.detach(),
            )
            for rows_BT, batch, stats in zip(rows, batches, statistics, strict=True)
        ]

    def denominator(self, batches: Sequence[TrainBatch]) -> float:
        """Rollouts times the length constant, or owned tokens of rollouts with a teacher."""
        if self.divide_by == "rollouts":
            # Fixed before sampling, so that the expected gradient of loss over count is that of one
            # objective; of the whole step, so that it does not depend on the batches.
            return sum(batch.num_rollouts for batch in batches) * self.length_constant
        tokens = sum(int((b.owned_BT & b.has_teacher_B[:, None]).sum()) for b in batches)
        # A step without any teacher has the loss 0 instead of 0 / 0.
        return float(max(tokens, 1))

    def token_losses(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> Tensor:
        """[B, T] both terms together."""
        local_BT, score_BT = self.terms(stats, batch, advantages)
        return local_BT + score_BT

    def terms(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> tuple[Tensor, Tensor]:
        """Local and future term of every token, undivided, with gradient.

        Args:
            stats: of the policy now.
            batch: the rows.
            advantages: weights of the score term.

        Returns:
            Two [B, T] tensors; exactly 0 (and no gradient) where a token has no such term.
        """
        weights_BT = self._importance_weights(stats, batch, advantages)
        local_BT = torch.zeros_like(stats.sampled_logprobs_BT)
        if self.local:
            # Both terms, as in the released code. The exact weights of the local term would be the
            # ratios of the tokens before it, which determine its state.
            local_BT = _labelled_costs(stats, batch) * weights_BT
            local_BT = local_BT * self._stale_weights(advantages.old_logprobs_BT, batch)[0]
        # No minus: costs are minimised, unlike rewards.
        score_BT = stats.sampled_logprobs_BT * advantages.advantage_BT * weights_BT
        # Own tokens only: the expectation of grad log pi vanishes for tokens drawn from pi, and
        # only then may a baseline be subtracted. On a forced token the baseline itself would add a
        # gradient.
        return local_BT, torch.where(self._scored(batch), score_BT, 0.0)

    def __call__(
        self,
        stats: StudentStatistics,
        batch: TrainBatch,
        advantages: Advantages,
        denominator: float,
    ) -> tuple[Tensor, dict[str, Mean]]:
        """The batch's share of the loss.

        Args:
            stats: of the policy now, with gradient.
            batch: the rows.
            advantages: weights of the score term, from the same step.
            denominator: of the whole step.

        Returns:
            Scalar loss, and metrics as sums and counts.
        """
        loss = self.token_losses(stats, batch, advantages).sum() / denominator
        return loss, self._metrics(stats.detach(), batch, advantages)

    def _costs_to_charge(self, stats: StudentStatistics, batch: TrainBatch) -> Tensor:
        if self.future == "none":
            return torch.zeros_like(stats.sampled_logprobs_BT)
        _refuse_chosen_positions(batch)
        cost_BT = _labelled_costs(stats, batch)
        if self.future == "ce":
            return cost_BT
        _refuse_empirical(batch)
        # The entropy over the same support as the cost, so that their difference is the KL
        # divergence on it; and over the same chance, since it is subtracted from a divided cost.
        entropy_BT = target_entropy(batch.targets).to(cost_BT.dtype) / batch.inclusion_BT
        return cost_BT - torch.where(batch.labelled_BT, entropy_BT, 0.0)

    def _advantage(
        self, cost_RT: Tensor, after_RT: Tensor, batches: Sequence[TrainBatch]
    ) -> Tensor:
        """The costs are weighted; `after_RT` is the weight of the state after each token."""
        if self.future == "none":
            return cost_RT
        # Costs elsewhere are 0 already; the mask is what "remaining" counts.
        labelled_RT = _join([b.labelled_BT for b in batches])
        future_RT = future_costs(
            cost_RT,
            labelled_RT,
            owned_BT=_join([b.owned_BT for b in batches]),
            # Padded with 1, because counts are divided by it.
            inclusion_BT=_join([b.inclusion_BT for b in batches], value=1.0),
            gamma=self.gamma,
            normaliser=self.normaliser,
            credit=self.credit,
        )
        if self.baseline != "none":
            # Not the own tokens alone: at a forced one a sibling still has costs to come.
            alive_RT = _join([b.response_mask_BT for b in batches])
            # A baseline is a cost-to-go from one state; the weight of that state multiplies it. A
            # sibling whose weight dips and recovers would be divided by next to nothing: any bound
            # on siblings leaves a baseline, so this one has the bound of weights.
            peers_RR = self._peers(batches)
            from_state_RT = future_RT / after_RT.clamp(min=1 / self.stale.cap)
            future_RT = future_RT - after_RT * baselines(from_state_RT, alive_RT, peers_RR)
        if self.advantage_clip is not None:
            # After the baseline, so that the bound is symmetric, on the weight of the score term.
            future_RT = future_RT.clamp(-self.advantage_clip, self.advantage_clip)
        return torch.where(_join([self._scored(b) for b in batches]), future_RT, 0.0)

    def _scored(self, batch: TrainBatch) -> Tensor:
        """[B, T] tokens with a score term; under `all` also those without a teacher, at cost 0."""
        scored_B = self._sampled(batch)
        if self.credit != "all":
            scored_B = scored_B & batch.has_teacher_B
        return batch.owned_BT & scored_B[:, None]

    def _sampled(self, batch: TrainBatch) -> Tensor:
        """[B] bool: rollouts of the policy, or of an older one by their weights."""
        return batch.on_policy_B | self._stale(batch)

    def _stale(self, batch: TrainBatch) -> Tensor:
        """[B] bool: rollouts of an older policy that are weighted."""
        # The local term by itself is a regression, for which any states do.
        stale_B = self.stale.stale(batch)
        return torch.zeros_like(stale_B) if self.future == "none" else stale_B

    def _stale_weights(self, logprobs_BT: Tensor, batch: TrainBatch) -> tuple[Tensor, Tensor]:
        """[B, T] weights of the states before and after each token; 1 unless it is stale."""
        return self.stale.weights(
            logprobs_BT, batch, self._stale(batch), whole=self.credit == "all"
        )

    def _peers(self, batches: Sequence[TrainBatch]) -> Tensor:
        labelled_RT = _join([b.labelled_BT for b in batches])
        gap_RT = _join([b.owned_BT for b in batches]) & ~labelled_RT
        # Without a teacher there are no costs to compare, and costs of an older policy without
        # weights have another expectation.
        eligible_R = torch.cat([b.has_teacher_B & self._sampled(b) for b in batches])
        if self.credit == "all":
            # Labels depend on the rollout, so choosing peers by them would bias the baseline.
            gap_RT = torch.zeros_like(gap_RT)
            eligible_R = torch.cat([self._sampled(b) for b in batches])
        group_R = torch.cat([b.group_B for b in batches])
        peers_RR = peers(group_R, eligible_R, labelled_RT, gap_RT)
        if self.baseline == "loo_independent":
            rollout_ids = [name for b in batches for name in b.rollout_ids]
            uses = [used for b in batches for used in b.uses]
            peers_RR &= independence(rollout_ids, uses).to(peers_RR.device)
        return peers_RR

    def _importance_weights(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> Tensor:
        if self.importance is None:
            return torch.ones_like(stats.sampled_logprobs_BT)
        return self.importance.weights(
            stats.sampled_logprobs_BT, advantages.old_logprobs_BT, batch
        ).to(stats.sampled_logprobs_BT.dtype)

    def _metrics(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> dict[str, Mean]:
        labelled, scored = batch.labelled_BT, self._scored(batch)
        targets = batch.targets
        cost_BT = cross_entropy(stats, targets)
        entropy_BT = target_entropy(targets)
        assert stats.tail_logprobs_BTE is not None
        student_tail_BT = (targets.weight_BTE * stats.tail_logprobs_BTE.exp()).sum(-1)
        # The objective is the expectation of this sum over a rollout.
        per_rollout_B = torch.where(labelled, cost_BT, 0.0).sum(-1)
        metrics = batch_metrics(stats, batch) | {
            "cost": mean_over(cost_BT, labelled),
            "cost_per_rollout": mean_over(per_rollout_B, labelled.any(-1)),
            "target_entropy": mean_over(entropy_BT, labelled),
            "kl": mean_over(cost_BT - entropy_BT, labelled),
            "target_tail": mean_over((targets.weight_BTE * targets.tail_BTE).sum(-1), labelled),
            "student_tail": mean_over(student_tail_BT, labelled),
        }
        if self.future != "none":
            metrics["advantage"] = mean_over(advantages.advantage_BT, scored)
            metrics["advantage_size"] = mean_over(advantages.advantage_BT.abs(), scored)
            stale_BT = labelled & self._stale(batch)[:, None]
            before_BT, _ = self._stale_weights(advantages.old_logprobs_BT, batch)
            metrics["stale_weight"] = mean_over(before_BT, stale_BT)
            metrics["stale_capped"] = mean_over((before_BT >= self.stale.cap).float(), stale_BT)
        if self.importance is not None:
            weights_BT = self._importance_weights(stats, batch, advantages)
            metrics["importance_weight"] = mean_over(weights_BT, batch.owned_BT)
        return metrics


def _labelled_costs(stats: StudentStatistics, batch: TrainBatch) -> Tensor:
    """[B, T] costs over the probability of drawing the position, so that their sum is unbiased."""
    # Horvitz-Thompson: a position drawn with probability p has the weight 1 / p, so that the
    # expectation over draws is the sum over all positions.
    cost_BT = cross_entropy(stats, batch.targets) / batch.inclusion_BT
    return torch.where(batch.labelled_BT, cost_BT, 0.0)


def _join(per_batch: Sequence[Tensor], value: float = 0.0) -> Tensor:
    """Rows of all batches, padded with `value` to the longest response."""
    longest = max(rows_BT.shape[1] for rows_BT in per_batch)
    return torch.cat(
        [pad(rows_BT, (0, longest - rows_BT.shape[1]), value=value) for rows_BT in per_batch]
    )


def _refuse_chosen_positions(batch: TrainBatch) -> None:
    """Refuses positions chosen by a rule: they do not estimate the costs of the others."""
    refused = batch.chosen_positions_B & batch.on_policy_B
    if refused.any():
        name = batch.rollout_ids[int(refused.nonzero()[0])]
        raise ValueError(
            f"chosen_positions=True in rollout {name!r}: its costs-to-go are not defined; draw "
            "positions at random with inclusion_probability, or set on_policy=False or "
            "future='none' for the local term only"
        )


def _refuse_empirical(batch: TrainBatch) -> None:
    """Refuses draws: their entropy is not the expert's, and the KL would be biased upwards."""
    refused_B = (batch.targets.kind_BE == KINDS.index("empirical")).any(-1)
    if refused_B.any():
        name = batch.rollout_ids[int(refused_B.nonzero()[0])]
        raise ValueError(
            f"future='kl' with an empirical component in rollout {name!r}: a sample does not "
            "determine the entropy; use future='ce'"
        )
