"""Imitation of given responses: supervised fine-tuning, and distillation on a teacher's prefixes.

    L(theta) = - E_{y* ~ D}[ sum_t (1 - soft) log p(y*_t|s_t) + soft sum_v q_t(v) log p(v|s_t) ]

`soft=0` is fine-tuning on the text alone and needs no expert; `soft=1` is offline distillation, the
teacher's distribution along a sequence that the student did not write (arXiv 1503.02531). The
sequence comes from `References`, never from the student: sampled rollouts are left out.

    SFT()                          # with rollout_source=References(...), experts=()
    SFT(soft=1.0)                  # and an expert

Trap: averaging over each micro-batch, as common trainers do, gives tokens of short examples more
weight than those of long ones; here the count is over the whole step. Imitation does not train on
the student's own mistakes, and causes more forgetting than on-policy methods.

Dimensions: B rollouts of a batch, T response positions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.model.credit import cross_entropy
from preceptor_trainer.model.statistics import Needs, StudentStatistics
from preceptor_trainer.objectives import Advantages, PlannedRun
from preceptor_trainer.objectives.checks import (
    require_experts,
    require_given_answers,
    within_0_1,
)
from preceptor_trainer.objectives.token_objective import TokenObjective, could_be_known


@dataclass(frozen=True, kw_only=True)
class SFT(TokenObjective):
    """The switches of imitation."""

    soft: float = 0.0
    """Share of the teacher's distribution in each token's loss; the rest is the token itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        within_0_1("soft", self.soft)

    @property
    def needs(self) -> Needs:
        """The experts' ids where they have a share."""
        return Needs(target_logprobs=self.soft > 0, entropy=True)

    def check(self, plan: PlannedRun) -> None:
        """Refuse a run without given sequences, or without an expert for a soft loss.

        Raises:
            ValueError: names the field and the reason.
        """
        require_given_answers(plan)
        if self.soft > 0:
            require_experts(plan)

    def counted(self, batch: TrainBatch) -> Tensor:
        """Tokens of given responses; if all is soft, those labelled or with a chance to be."""
        given_BT = batch.owned_BT & batch.given_B[:, None]
        # With soft < 1 every given token has a loss, from its own text; with soft = 1 a token
        # without an expert's opinion has none.
        return given_BT & could_be_known(batch, batch.labelled_BT) if self.soft == 1 else given_BT

    def token_losses(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> Tensor:
        """Cross-entropy to the token and to the teacher, in their shares."""
        loss_BT = -(1 - self.soft) * stats.sampled_logprobs_BT
        if self.soft > 0:
            soft_BT = cross_entropy(stats, batch.targets) / batch.inclusion_BT
            loss_BT = loss_BT + self.soft * torch.where(batch.labelled_BT, soft_BT, 0.0)
        return torch.where(self.counted(batch), loss_BT, 0.0)
