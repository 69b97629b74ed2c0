"""SDPO: self-distillation from a teacher that has seen the feedback, token by token.

    L(theta) = E_{y ~ sg pi_theta}[ sum_t D( pi_theta(.|s_t), q_t ) ]

    reverse KL:  grad L = E_y[ sum_t E_{a ~ pi(.|s_t)}[ log(pi(a)/q_t(a)) grad log pi(a) ] ]

Source: arXiv 2601.20802. D is reverse KL, Jensen-Shannon or forward KL over the student's own top-k
ids; `q_t` is the policy (as a moving average, frozen or in a trust region) with feedback in view.
Sampling is not differentiated: this is what DistIL adds.

    SDPO()                                                        # JSD over the student's top 100
    SDPO(divergence=Divergence(alpha=1.0, support="student", num_ids=20))       # rich feedback
    SDPO(form="sampled", importance=TruncatedImportance())        # one log-prob per token

The student's ids are sent with the query, scored by the expert and stored in the target.
`support="expert"` uses the expert's own top-k instead, which any server can return.

The released code, and its traps. Its token mean is taken per micro-batch; with one row in each,
that is a mean over a rollout's tokens and then over all rollouts, masked ones as zeros, so that the
step shrinks with the share of rollouts without a teacher (`divide_by="responses"` is that one; the
default counts tokens over the whole step). Its importance weight multiplies the loss, detached and
capped, instead of clipping as PPO does. Its script for coding sets `ema_update_rate`, which is not
used. An alpha of 0 there is forward KL, as here; other code has the opposite convention.

Left out on purpose: the sequence-level form (tried in the paper without gain; `DistIL(future="kl")`
is its forward analogue) and the clipped off-policy objective of its equation 13.

Dimensions: B rollouts of a batch, T response positions.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.model.statistics import Needs, StudentStatistics
from preceptor_trainer.objectives import Advantages, PlannedRun
from preceptor_trainer.objectives.checks import (
    one_of,
    require_distributions,
    require_experts,
    require_own_logprobs,
    require_policy_samples,
)
from preceptor_trainer.objectives.divergences import Divergence
from preceptor_trainer.objectives.importance import TruncatedImportance
from preceptor_trainer.objectives.metrics import Mean
from preceptor_trainer.objectives.sampled_tokens import reverse_kl_score
from preceptor_trainer.objectives.token_objective import TokenObjective, taught


@dataclass(frozen=True, kw_only=True)
class SDPO(TokenObjective):
    """The switches of SDPO; the defaults are the paper's without rich feedback."""

    divergence: Divergence = Divergence(alpha=0.5, support="student", num_ids=100)
    """D, and over which ids."""
    form: Literal["distribution", "sampled"] = "distribution"
    """All ids of the support, or reverse KL as a score term at the sampled token."""
    importance: TruncatedImportance | None = None
    """Corrects for optimiser steps and for a sampler that is not the policy (`is_clip`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("form", self.form, ("distribution", "sampled"))

    @property
    def needs(self) -> Needs:
        """The divergence's ids, or nothing beside the sampled tokens."""
        return self.divergence.needs if self.form == "distribution" else Needs(entropy=True)

    def check(self, plan: PlannedRun) -> None:
        """Refuse experts whose answers lack what this form needs.

        Raises:
            ValueError: names the field and the reason.
        """
        # A divergence at a state does not depend on how the state was sampled. The score term below
        # is an expectation over the sampled token, so only that form refuses another sampler.
        if self.form == "distribution":
            self.divergence.check(plan)
            return
        require_experts(plan)
        require_distributions(plan, "form='sampled'")
        require_own_logprobs(plan, "form='sampled'")
        if self.importance is None:
            require_policy_samples(plan, "set importance=TruncatedImportance()")

    def counted(self, batch: TrainBatch) -> Tensor:
        """Own tokens of rollouts with a teacher."""
        return taught(batch)

    def token_losses(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> Tensor:
        """The divergence, or the score term, times the importance weight."""
        now_BT, old_BT = stats.sampled_logprobs_BT, advantages.old_logprobs_BT
        if self.form == "sampled":
            loss_BT = reverse_kl_score(stats, batch)
            if self.importance is None:
                return loss_BT
            # For a rollout of an older policy too: its score term is an expectation under that
            # policy.
            weights_BT = self.importance.score_weights(now_BT, old_BT, batch)
        else:
            loss_BT = self.divergence(stats, batch)
            if self.importance is None:
                return loss_BT
            weights_BT = self.importance.weights(now_BT, old_BT, batch).to(loss_BT.dtype)
        return loss_BT * weights_BT

    def metrics(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> dict[str, Mean]:
        """The divergence at labelled positions."""
        metrics = super().metrics(stats, batch, advantages)
        if self.form == "distribution":
            metrics["divergence"] = self.divergence.mean(stats, batch)
        return metrics
