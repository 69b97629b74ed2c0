"""The head for a call of any size: all logits at once where they are few, else in chunks."""

from dataclasses import dataclass, field
from typing import Final

from torch import Tensor, nn

from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.model.heads.dense import dense_head
from preceptor_trainer.model.heads.head import BatchLoss, Extra, Head, HeadLoss
from preceptor_trainer.model.heads.lean import LeanHead
from preceptor_trainer.model.heads.projection import is_linear
from preceptor_trainer.model.statistics import Needs, StudentStatistics


@dataclass(frozen=True, kw_only=True)
class HeadBySize:
    """`LeanHead` for calls whose logits do not fit one of its chunks, `DenseHead` for others.

    Output embeddings that `LeanHead` cannot read, such as one with an adapter, are always dense.
    """

    lean: LeanHead = field(default_factory=LeanHead)
    """The head of large calls; its `chunk_bytes` is the bound."""

    def __call__(
        self, hidden_NH: Tensor, output: nn.Module, batch: TrainBatch, needs: Needs
    ) -> StudentStatistics:
        """Statistics by the head that fits."""
        return self._head(hidden_NH, output)(hidden_NH, output, batch, needs)

    def loss(
        self,
        hidden_NH: Tensor,
        output: nn.Module,
        batch: TrainBatch,
        needs: Needs,
        loss: BatchLoss[Extra],
    ) -> HeadLoss[Extra]:
        """The loss by the head that fits."""
        return self._head(hidden_NH, output).loss(hidden_NH, output, batch, needs, loss)

    def _head(self, hidden_NH: Tensor, output: nn.Module) -> Head:
        if not is_linear(output):
            return dense_head
        # Logits of 16 bits are converted to 32.
        num_bytes = 4 * len(hidden_NH) * output.weight.shape[0]
        return self.lean if num_bytes > self.lean.chunk_bytes else dense_head


head_by_size: Final = HeadBySize()
