"""Divergences between student and experts on a few ids and the tail.

    alpha = 0   KL(q || p)                                       forward
    alpha = 1   KL(p || q)                                       reverse
    between     (1 - alpha) KL(p || m) + alpha KL(q || m),  m = (1 - alpha) p + alpha q

with student p and expert q: the generalised Jensen-Shannon divergence in the convention of GKD
(arXiv 2306.13649) and SDPO (arXiv 2601.20802); 1/2 is the usual one. At alpha 0 and 1, where its
value is zero, it is replaced by its limit after division by alpha (or 1 - alpha).

Two supports. `expert` takes the expert's own ids; only they can pull up a token that the student
holds improbable. `student` takes the student's own ids, sent to the experts as candidates: this is
where reverse KL has its weight, and it needs experts that score candidate ids. The probability
outside the support is either one more token (`tail`: coarse, but complete), or both distributions
are renormalised on the support (`renormalise`: no gradient outside, and mass there has no cost).

Reverse KL on a truncated support without either would have a wrong gradient outside the support, so
there is no such switch. Several experts: the weighted sum of the divergences to each, not the
divergence to their mixture.

Dimensions: B rollouts, T positions, E experts, I ids of the support (the tail last).
"""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.model.statistics import (
    ABSENT,
    MIN_TAIL,
    Needs,
    StudentStatistics,
    log_tail_mass,
)
from preceptor_trainer.objectives import PlannedRun
from preceptor_trainer.objectives.checks import (
    one_of,
    positive,
    require_candidates,
    require_distributions,
    require_experts,
    within_0_1,
)
from preceptor_trainer.objectives.metrics import Mean, mean_over_drawn

SupportOf: TypeAlias = Literal["expert", "student"]
Rest: TypeAlias = Literal["tail", "renormalise"]

# Probabilities are rounded on the wire; this keeps the logarithm of one that became 0 finite.
_MIN_PROB = 1e-30


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Which divergence, over which ids."""

    alpha: float = 0.5
    """0 forward KL, 1 reverse KL, Jensen-Shannon between."""
    support: SupportOf = "expert"
    """The support: the most probable ids of `expert` or `student`."""
    num_ids: int = 20
    """Ids of the student's support; the expert's are as many as its `top_k`."""
    rest: Rest = "tail"
    """How the probability outside the support is treated."""
    term_clip: float | None = None
    """Upper bound in nats of each id's term, before the sum over ids."""

    def __post_init__(self) -> None:
        within_0_1("alpha", self.alpha)
        one_of("support", self.support, ("expert", "student"))
        one_of("rest", self.rest, ("tail", "renormalise"))
        positive("num_ids", self.num_ids)
        if self.term_clip is not None:
            positive("term_clip", self.term_clip)

    @property
    def needs(self) -> Needs:
        """Log-probs on the support; entropy is for the metrics."""
        if self.support == "student":
            return Needs(num_candidates=self.num_ids, entropy=True)
        return Needs(target_logprobs=True, entropy=True)

    def check(self, plan: PlannedRun) -> None:
        """Refuse experts whose answers lack what this divergence needs.

        Raises:
            ValueError: with the expert and the reason.
        """
        require_experts(plan)
        if self.alpha > 0:
            name = "reverse KL" if self.alpha == 1 else f"a divergence with alpha={self.alpha}"
            require_distributions(plan, name)
        if self.support == "student":
            require_candidates(plan, f"support='student' (alpha={self.alpha})")

    def __call__(self, stats: StudentStatistics, batch: TrainBatch) -> Tensor:
        """The divergence at every labelled position.

        Args:
            stats: of the policy now, with gradient.
            batch: holds the targets.

        Returns:
            [B, T] nats, over the probability of drawing the position; 0 where unlabelled.

        Raises:
            ValueError: an expert with an opinion scored none of the student's ids.
        """
        student_BTEI, expert_BTEI, present_BTEI = self._support(stats, batch)
        terms_BTEI = divergence_terms(student_BTEI, expert_BTEI, self.alpha)
        if self.term_clip is not None:
            # Before the sum over ids, as in OPSD: one token of style must not dominate its
            # position. Above the bound the gradient is 0; negative terms are not bounded.
            terms_BTEI = terms_BTEI.clamp(max=self.term_clip)
        # An id that an expert did not score has a real log-prob for the student and ABSENT for the
        # expert: reverse KL would add thousands of nats.
        per_expert_BTE = torch.where(present_BTEI, terms_BTEI, 0.0).sum(-1)
        divergence_BT = (batch.targets.weight_BTE * per_expert_BTE).sum(-1) / batch.inclusion_BT
        return torch.where(batch.labelled_BT, divergence_BT, 0.0)

    def mean(self, stats: StudentStatistics, batch: TrainBatch) -> Mean:
        """The mean over all positions, in nats, estimated from the drawn ones."""
        # The loss has been divided already; the mean divides once more, by the sum of chances.
        undivided_BT = self(stats, batch) * batch.inclusion_BT
        return mean_over_drawn(undivided_BT, batch.labelled_BT, batch.inclusion_BT)

    def _support(
        self, stats: StudentStatistics, batch: TrainBatch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probs of student and experts, and which cells hold an id, each [B, T, E, I]."""
        targets = batch.targets
        if self.support == "expert":
            assert stats.target_logprobs_BTEK is not None
            student = stats.target_logprobs_BTEK
            expert = targets.probs_BTEK.clamp(min=_MIN_PROB).log()
            present = targets.ids_BTEK >= 0
            expert_tail = targets.tail_BTE
        else:
            assert stats.candidate_logprobs_BTC is not None
            _refuse_unscored(batch)
            # An expert may leave ids unscored: each is compared on the ids that it scored.
            present = targets.candidate_mask_BTEC & (targets.candidate_ids_BTC >= 0)[:, :, None]
            student = stats.candidate_logprobs_BTC[:, :, None].expand_as(present)
            expert = torch.where(present, targets.candidate_logprobs_BTEC, ABSENT)
            # Not the tail of the answer, which is outside the expert's ids: this support is the
            # student's.
            expert_tail = 1 - expert.exp().sum(-1)
        if self.rest == "renormalise":
            return _renormalised(student, present), _renormalised(expert, present), present
        student_tail = log_tail_mass(student, present)
        # The same minimum as for the student's tail, so that equal distributions on the support
        # agree; and rounded probabilities may add up to more than 1.
        log_expert_tail = expert_tail.clamp(min=MIN_TAIL).log()
        return (
            torch.cat([student, student_tail[..., None]], -1),
            torch.cat([expert, log_expert_tail[..., None]], -1).to(student.dtype),
            # An expert without any scored id has no tail to compare.
            torch.cat([present, present.any(-1, keepdim=True)], -1),
        )


def divergence_terms(student: Tensor, expert: Tensor, alpha: float) -> Tensor:
    """The divergence before its sum over ids, in log space.

    Args:
        student: [...] log-probs, with gradient.
        expert: [...] log-probs.
        alpha: see the module.

    Returns:
        [...] nats; single terms may be negative.
    """
    if alpha == 0:
        # alpha = 0 and 1 separately: the mixture is then one of the two, and the divergence 0.
        return expert.exp() * (expert - student)
    if alpha == 1:
        return student.exp() * (student - expert)
    # In log space: the exponential of a log-prob below -104 is 0 in float32, and the logarithm of a
    # mixture of two zeros would be -inf.
    mixture = torch.logaddexp(student + math.log1p(-alpha), expert + math.log(alpha))
    to_student = student.exp() * (student - mixture)
    to_expert = expert.exp() * (expert - mixture)
    return (1 - alpha) * to_student + alpha * to_expert


def _renormalised(logprobs: Tensor, present: Tensor) -> Tensor:
    kept = torch.where(present, logprobs, ABSENT)
    # ABSENT again: after the shift by the normaliser, an empty cell would have a gradient.
    return torch.where(present, kept - kept.logsumexp(-1, keepdim=True), ABSENT)


def _refuse_unscored(batch: TrainBatch) -> None:
    """Refuses a support without ids: its divergence would be zero and look like agreement."""
    opinion_BTE = (batch.targets.weight_BTE > 0) & batch.owned_BT[..., None]
    refused_B = (opinion_BTE & ~batch.targets.candidate_mask_BTEC.any(-1)).any(-1).any(-1)
    if refused_B.any():
        name = batch.rollout_ids[int(refused_B.nonzero()[0])]
        raise ValueError(
            f"support='student' in rollout {name!r}: an expert scored none of the student's ids; "
            "use support='expert'"
        )
