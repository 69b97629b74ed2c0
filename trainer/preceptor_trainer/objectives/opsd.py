"""OPSD: on-policy self-distillation from a teacher that reads the reference solution.

    L(theta) = E_{y ~ sg p}[ 1/|y| sum_t sum_v min( D_v(q_t, p_t), clip ) ]

with `D_v` the v-th term of generalised Jensen-Shannon divergence between student p and the policy
with the reference in view, frozen at its initial weights. Source: arXiv 2601.18734. Forward KL
(`alpha=0`) did best there. The bound on every token of the vocabulary prevents style words, whose
divergence is much larger than that of content, from dominating the step.

    OPSD()                                                    # forward KL, terms at most 0.05 nats
    OPSD(divergence=Divergence(alpha=0.5))                    # JSD, unbounded

The released code, and its trap. A term above the bound has no gradient: the student does not learn
from the tokens where it is most wrong, and the remaining terms of such a position may have the
opposite effect. The bound is 0.05 by default and 0.06 in the script; DistIL's
mathematics release applies the same default to the cost of the whole position, which removes the
gradient of most positions. Only terms above the bound are clipped; negative ones are not.

Left out on purpose: the sampled-token variant, which was worse (it is `SDPO(form="sampled")`).

Dimensions: B rollouts of a batch, T response positions.
"""

from dataclasses import dataclass

from torch import Tensor

from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.model.statistics import Needs, StudentStatistics
from preceptor_trainer.objectives import Advantages, PlannedRun
from preceptor_trainer.objectives.divergences import Divergence
from preceptor_trainer.objectives.metrics import Mean
from preceptor_trainer.objectives.token_objective import DivideBy, TokenObjective, taught


@dataclass(frozen=True, kw_only=True)
class OPSD(TokenObjective):
    """The switches of OPSD; the defaults are the paper's best."""

    divide_by: DivideBy = "responses"
    """Each response counts once, whatever its length."""
    # On the ids of the teacher and with a tail: the paper takes the whole vocabulary, which no
    # server sends.
    divergence: Divergence = Divergence(alpha=0.0, term_clip=0.05)
    """D, its ids and the bound of its terms."""

    @property
    def needs(self) -> Needs:
        """The divergence's ids."""
        return self.divergence.needs

    def check(self, plan: PlannedRun) -> None:
        """Refuse experts whose answers lack what the divergence needs."""
        self.divergence.check(plan)

    def counted(self, batch: TrainBatch) -> Tensor:
        """Own tokens of rollouts with a teacher."""
        return taught(batch)

    def token_losses(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> Tensor:
        """The bounded divergence."""
        return self.divergence(stats, batch)

    def metrics(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> dict[str, Mean]:
        """The bounded divergence at labelled positions."""
        metrics = super().metrics(stats, batch, advantages)
        metrics["divergence"] = self.divergence.mean(stats, batch)
        return metrics
