"""The head that forms all logits of a call at once, in float32. The reference for others.

    stats = student_statistics(model, batch, Needs(target_logprobs=True))

Left out on purpose: the sampler's temperature. Student and expert are compared at temperature 1,
the distribution that the objective is about.

Dimensions: N real response positions of a batch, H of a hidden state, V vocabulary, I ids to look
at.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.model.heads.head import (
    BatchLoss,
    Extra,
    Head,
    HeadLoss,
    LookedAt,
    at_least_float32,
)
from preceptor_trainer.model.statistics import ABSENT, Needs, StudentStatistics
from preceptor_trainer.model.trunk import CausalModel, Trunk, padded


@dataclass(frozen=True, kw_only=True)
class DenseHead:
    """All logits of a call at once: some four float32 [N, V] tensors, for any output module."""

    def __call__(
        self, hidden_NH: Tensor, output: nn.Module, batch: TrainBatch, needs: Needs
    ) -> StudentStatistics:
        """Statistics through a full [N, V] logit matrix.

        Args:
            hidden_NH: hidden states that predict the N real response tokens, in row-major order of
                `batch.response_mask_BT`.
            output: the output embedding.
            batch: names the ids to look at.
            needs: what to compute beside the sampled log-probs.

        Returns:
            Statistics in [B, T, ...]; padding and empty ids hold ABSENT.
        """
        logits_NV: Tensor = output(hidden_NH)
        # The logits are converted, not only the normaliser: log-probs are differences of logits and
        # logsumexp, and 16 bits leave an error of about .03 nats over a vocabulary of 50,000.
        logits_NV = logits_NV.to(at_least_float32(logits_NV.dtype))
        # One gather for all ids: each gather's backward pass would write its own [N, V] gradient.
        looked_at = LookedAt.of(batch, needs)
        # Normalised over the whole vocabulary, also where an expert returned K ids: ratios and
        # tails are wrong with a truncated normaliser. The value read where there is no id is
        # replaced in the next line, which also stops its gradient.
        found_NI = logits_NV.gather(1, looked_at.columns_NI)
        logprobs_NI = found_NI - logits_NV.logsumexp(1, keepdim=True)
        logprobs_NI = torch.where(looked_at.present_NI, logprobs_NI, ABSENT)
        # Without gradient, because the graph would hold another [N, V] tensor for a metric.
        entropy_N = _entropy(logits_NV.detach()) if needs.entropy else None
        return looked_at.statistics(logprobs_NI, entropy_N)

    def loss(
        self,
        hidden_NH: Tensor,
        output: nn.Module,
        batch: TrainBatch,
        needs: Needs,
        loss: BatchLoss[Extra],
    ) -> HeadLoss[Extra]:
        """The loss of complete statistics, through autograd."""
        stats = self(hidden_NH, output, batch, needs)
        value, extra = loss(stats)
        return HeadLoss(loss=value, stats=stats.detach(), extra=extra)


dense_head: Final = DenseHead()


def student_statistics(
    model: CausalModel,
    batch: TrainBatch,
    needs: Needs,
    *,
    trunk: Trunk = padded,
    head: Head = dense_head,
) -> StudentStatistics:
    """Run the policy over the batch and reduce its logits to statistics."""
    return head(trunk(model, batch), model.get_output_embeddings(), batch, needs)


def _entropy(logits_NV: Tensor) -> Tensor:
    logprobs_NV = logits_NV.log_softmax(1)
    return -(logprobs_NV.exp() * logprobs_NV).sum(1)
