"""The forward passes of an update, as one module.

    result = passes.loss(share, step)
    stats = passes.statistics(batch, needs, step)

One module, because weights that are divided between processes are whole while a module runs: the
trunk calls the model's parts, and heads read the output embedding's weights.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Final, cast

from torch import Tensor, nn

from preceptor_trainer.kit.placement import Placement
from preceptor_trainer.kit.seeding import derived_seed
from preceptor_trainer.learner.lora import Adapter
from preceptor_trainer.learner.shares import Share
from preceptor_trainer.model.batch import TrainBatch, TrainRollout, collate
from preceptor_trainer.model.heads.head import Head, HeadLoss
from preceptor_trainer.model.statistics import Needs, StudentStatistics
from preceptor_trainer.model.trunk import CausalModel, Trunk
from preceptor_trainer.objectives import Advantages
from preceptor_trainer.objectives.metrics import Mean

Result = HeadLoss[tuple[Advantages, dict[str, Mean]]]

_SMALLEST: Final = collate(
    [TrainRollout(rollout_id="", group=0, prompt_ids=(0,), response_ids=(0,))]
)
"""A batch of one token, whose rollout has no name."""


class Passes(nn.Module):
    """Trunk and head of one model."""

    def __init__(
        self, model: nn.Module, trunk: Trunk, head: Head, place: Placement, adapter: Adapter | None
    ) -> None:
        super().__init__()
        self.model = model
        self._trunk = trunk
        self._head = head
        self._place = place
        self._adapter = adapter

    def loss(self, share: Share, step: int) -> Result:
        """A share's loss, with gradient."""
        _, result = self(share.batch, share.objective.needs, share, step)
        return cast(Result, result)

    def statistics(self, batch: TrainBatch, needs: Needs, step: int | None) -> StudentStatistics:
        """Statistics of a batch."""
        _, stats = self(batch, needs, None, step)
        return cast(StudentStatistics, stats)

    def nothing(self) -> Tensor:
        """A pass through all layers whose loss and gradients are 0."""
        device = next(self.model.parameters()).device
        loss, _ = self(_SMALLEST.to(device), Needs(), None, None)
        return loss

    def forward(
        self, batch: TrainBatch, needs: Needs, share: Share | None, step: int | None
    ) -> tuple[Tensor | None, Result | StudentStatistics | None]:
        """A share's loss with gradient, or statistics where there is no share.

        Args:
            batch: On the model's device.
            needs: What the objective reads.
            share: The batch's share of a step's loss.
            step: Decides what an adapter's dropout drops; None drops nothing. Two passes of one
                step over one batch drop the same.
        """
        model = cast(CausalModel, self.model)
        with self._dropping(batch, step), self._place.computing():
            hidden_NH = self._trunk(model, batch)
            output = model.get_output_embeddings()
            if batch.rollout_ids == _SMALLEST.rollout_ids:
                return cast(Tensor, output(hidden_NH)).sum() * 0.0, None
            if share is None:
                return None, self._head(hidden_NH, output, batch, needs)
            result = self._head.loss(hidden_NH, output, batch, needs, share)
            return result.loss, result

    def _dropping(self, batch: TrainBatch, step: int | None) -> AbstractContextManager[None]:
        if self._adapter is None or step is None:
            return nullcontext()
        return self._adapter.dropping(derived_seed("dropout", step, *batch.rollout_ids))
