"""GKD: distillation from a stronger teacher on a mixture of given and sampled responses.

    L(theta) = (1 - lambda) E_{y ~ data}[ sum_t D_t ] + lambda E_{y ~ sg p}[ sum_t D_t ]

with D_t the generalised Jensen-Shannon divergence between student p and teacher q in state t.
Source: arXiv 2306.13649. Sampling is not differentiated. The mixture is the run's source of
rollouts, not a switch of the loss: `References(share=1 - lambda)`; `OnPolicy()` is lambda = 1.

    GKD(divergence=Divergence(alpha=0.5))

The paper and most code call alpha beta, with the same meaning as here: towards 0 forward KL,
towards 1 reverse KL. Trap of the common code: the coin of lambda is tossed once per batch, so that
single steps are wholly given or wholly sampled; here every group is mixed.

Dimensions: B rollouts of a batch, T response positions.
"""

from dataclasses import dataclass

from torch import Tensor

from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.model.statistics import Needs, StudentStatistics
from preceptor_trainer.objectives import Advantages, PlannedRun
from preceptor_trainer.objectives.divergences import Divergence
from preceptor_trainer.objectives.metrics import Mean
from preceptor_trainer.objectives.token_objective import TokenObjective, taught


@dataclass(frozen=True, kw_only=True)
class GKD(TokenObjective):
    """The switches of GKD."""

    divergence: Divergence = Divergence(alpha=0.5)
    """D, and over which ids."""

    @property
    def needs(self) -> Needs:
        """The divergence's ids."""
        return self.divergence.needs

    def check(self, plan: PlannedRun) -> None:
        """Refuse experts whose answers lack what the divergence needs."""
        self.divergence.check(plan)

    def counted(self, batch: TrainBatch) -> Tensor:
        """Tokens of rollouts with a teacher, given ones among them."""
        return taught(batch)

    def token_losses(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> Tensor:
        """The divergence, on given and sampled responses alike."""
        return self.divergence(stats, batch)

    def metrics(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> dict[str, Mean]:
        """The divergence at labelled positions."""
        metrics = super().metrics(stats, batch, advantages)
        metrics["divergence"] = self.divergence.mean(stats, batch)
        return metrics
