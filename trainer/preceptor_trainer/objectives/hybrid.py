"""Rewards and self-distillation together.

    L = share * L_GRPO + (1 - share) * L_SDPO

Equal to one policy gradient with the advantage `share * A_GRPO + (1 - share) * A_SDPO`, in which
A_SDPO is `log q(a) - log pi(a)`. Source: arXiv 2601.20802, with a share of .9; it helped a small
model and slightly hurt a large one there. Both parts are divided by the same count, so that the
share does not depend on counts.

    Hybrid()
    Hybrid(distillation=SDPO(form="sampled"), share=0.5)

Trap: the two losses are not on one scale. Normalised advantages are of order one at every token,
log-ratios are small at most tokens: the share is not the share of the gradient. The metrics report
both.

Dimensions: B rollouts of a batch, T response positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.model.statistics import Needs, StudentStatistics
from preceptor_trainer.objectives import Advantages, PlannedRun
from preceptor_trainer.objectives.checks import within_0_1
from preceptor_trainer.objectives.grpo import GRPO
from preceptor_trainer.objectives.metrics import Mean, mean_over
from preceptor_trainer.objectives.sdpo import SDPO
from preceptor_trainer.objectives.token_objective import TokenObjective


@dataclass(frozen=True, kw_only=True)
class Hybrid(TokenObjective):
    """The two parts and the first one's share; their own `divide_by` is not used."""

    reward: GRPO = GRPO(std=False)
    """The objective on rewards."""
    distillation: SDPO = SDPO()
    """The objective on experts."""
    share: float = 0.9
    """Share of the reward's objective."""

    def __post_init__(self) -> None:
        super().__post_init__()
        within_0_1("share", self.share)
        if self.reward.dynamic_sampling:
            raise ValueError(
                "reward.dynamic_sampling=True leaves groups out of the count that the "
                "distillation still learns from"
            )

    @property
    def needs(self) -> Needs:
        """What the distillation needs."""
        return self.distillation.needs

    @property
    def weighs_gains(self) -> bool:
        """As the advantages of the rewards."""
        return self.reward.weighs_gains

    def check(self, plan: PlannedRun) -> None:
        """Refuse what either part refuses."""
        self.reward.check(plan)
        self.distillation.check(plan)

    def counted(self, batch: TrainBatch) -> Tensor:
        """Tokens that either part counts."""
        # One count for both: with two counts the share would depend on the number of rollouts with
        # a teacher.
        return self.reward.counted(batch) | self.distillation.counted(batch)

    def advantages(
        self, statistics: Sequence[StudentStatistics], batches: Sequence[TrainBatch]
    ) -> list[Advantages]:
        """Those of the rewards."""
        return self.reward.advantages(statistics, batches)

    def token_losses(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> Tensor:
        """Both parts in their shares."""
        reward_BT = self.reward.token_losses(stats, batch, advantages)
        distillation_BT = self.distillation.token_losses(stats, batch, advantages)
        return self.share * reward_BT + (1 - self.share) * distillation_BT

    def metrics(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> dict[str, Mean]:
        """Both parts' own."""
        counted_BT = self.counted(batch)
        return (
            self.reward.metrics(stats, batch, advantages)
            | self.distillation.metrics(stats, batch, advantages)
            | {
                "reward_loss": mean_over(
                    self.reward.token_losses(stats, batch, advantages), counted_BT
                ),
                "distillation_loss": mean_over(
                    self.distillation.token_losses(stats, batch, advantages), counted_BT
                ),
            }
        )
