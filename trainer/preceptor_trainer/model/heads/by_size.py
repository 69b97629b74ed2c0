"""The head for a call of any size: all logits at once where they are few, else in chunks.

All at once is some four copies of the logits, and as many products as in chunks. So chunks are
leaner and faster from the size on at which the logits leave a processor's cache. Only where an
objective reads all tokens do chunks cost a fourth product.
"""

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
    """`DenseHead` for calls with few logits, `LeanHead` for others.

    Output embeddings that `LeanHead` cannot read, such as one with an adapter, are always dense.
    """

    lean: LeanHead = field(default_factory=LeanHead)
    """The head of large calls. Its `chunk_bytes` is the bound for statistics, and for losses that
    read all tokens."""
    dense_bytes: int = 32 << 20
    """Bytes of the logits up to which any other loss is computed with all of them at once; never
    more than `chunk_bytes`."""

    def __call__(
        self, hidden_NH: Tensor, output: nn.Module, batch: TrainBatch, needs: Needs
    ) -> StudentStatistics:
        """Statistics by the head that fits."""
        head = self._head(hidden_NH, output, self.lean.chunk_bytes)
        return head(hidden_NH, output, batch, needs)

    def loss(
        self,
        hidden_NH: Tensor,
        output: nn.Module,
        batch: TrainBatch,
        needs: Needs,
        loss: BatchLoss[Extra],
    ) -> HeadLoss[Extra]:
        """The loss by the head that fits."""
        most = self.lean.chunk_bytes
        if loss.reads != "all":
            most = min(most, self.dense_bytes)
        return self._head(hidden_NH, output, most).loss(hidden_NH, output, batch, needs, loss)

    def _head(self, hidden_NH: Tensor, output: nn.Module, most_bytes: int) -> Head:
        if not is_linear(output):
            return dense_head
        # Logits of 16 bits are converted to 32.
        num_bytes = 4 * len(hidden_NH) * output.weight.shape[0]
        return self.lean if num_bytes > most_bytes else dense_head


head_by_size: Final = HeadBySize()
