"""The head that never holds all logits: forward and backward pass of one chunk of rows at a time.

    LeanHead().loss(hidden_NH, output, batch, needs, loss)

A plain chunked head has four matrix products: the logits, the same logits again in the backward
pass, and the gradients of hidden states and weights. The logits are computed again because the
gradient of the loss is known only when all chunks are through. But the loss is a sum over tokens,
and what multiplies a token's log-prob can be known before the token is reached:

- where the loss of a token reads statistics of its own position, all of it is in the chunk;
- costs-to-go and their baselines read later positions. Chunks are taken from the end of all
  responses to their beginning, so that those are through.

So the objective is evaluated at every chunk, on statistics as far as they are known, and its
gradient with respect to those of the chunk is used while the chunk's logits are there: three
products, as with all logits at once. For `reads="all"` there is no such order, and the logits are
computed twice.

In the end the gradient with respect to complete statistics is compared with what was used. An
objective whose `reads` is wrong is refused and not trained.

Dimensions: N real response positions of a batch, R of a chunk, H of a hidden state, V vocabulary, I
ids to look at.
"""

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.model.heads.chunks import ChunkedCall, GradientSums
from preceptor_trainer.model.heads.head import BatchLoss, Extra, HeadLoss, LookedAt
from preceptor_trainer.model.statistics import ABSENT, Needs, StudentStatistics

# Relative to the largest gradient. Two evaluations of an objective differ by rounding only.
_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class LeanHead:
    """One chunk of logits at a time, for output embeddings that are a plain `torch.nn.Linear`."""

    chunk_bytes: int = 256 << 20
    """Bytes of a chunk's logits, at least one row. With smaller chunks the weights and their
    gradient are read and written more often."""

    def __post_init__(self) -> None:
        if self.chunk_bytes < 1:
            raise ValueError(f"chunk_bytes must be positive, not {self.chunk_bytes}")

    def __call__(
        self, hidden_NH: Tensor, output: nn.Module, batch: TrainBatch, needs: Needs
    ) -> StudentStatistics:
        """Statistics; the backward pass computes the logits of each chunk again.

        Args:
            hidden_NH: hidden states that predict the N real response tokens, in row-major order of
                `batch.response_mask_BT`.
            output: the output embedding.
            batch: names the ids to look at.
            needs: what to compute beside the sampled log-probs.

        Returns:
            Statistics in [B, T, ...]; padding and empty ids hold ABSENT.

        Raises:
            ValueError: the output embedding is not linear.
        """
        call = self._call(hidden_NH, output, batch, needs)
        logprobs_NI, entropy_N = cast(
            tuple[Tensor, Tensor], cast(Any, _Recomputed).apply(*call.inputs, call)
        )
        return _statistics(call.looked_at, logprobs_NI, entropy_N)

    def loss(
        self,
        hidden_NH: Tensor,
        output: nn.Module,
        batch: TrainBatch,
        needs: Needs,
        loss: BatchLoss[Extra],
    ) -> HeadLoss[Extra]:
        """The loss; its gradients are computed on the way.

        Raises:
            ValueError: the output embedding is not linear, or `loss.reads` is wrong.
        """
        if loss.reads == "all" or not torch.is_grad_enabled():
            stats = self(hidden_NH, output, batch, needs)
            value, extra = loss(stats)
            return HeadLoss(loss=value, stats=stats.detach(), extra=extra)
        call = self._call(hidden_NH, output, batch, needs)
        result, sums = _chunk_by_chunk(call, loss)
        value = cast(Tensor, cast(Any, _Known).apply(*call.inputs, result.loss, sums))
        return replace(result, loss=value)

    def _call(
        self, hidden_NH: Tensor, output: nn.Module, batch: TrainBatch, needs: Needs
    ) -> ChunkedCall:
        return ChunkedCall.of(hidden_NH, output, LookedAt.of(batch, needs), self.chunk_bytes)


def _chunk_by_chunk(
    call: ChunkedCall, loss: BatchLoss[Extra]
) -> tuple[HeadLoss[Extra], GradientSums]:
    """The loss without a graph, and the gradients of the call's inputs."""
    looked_at = call.looked_at
    # What is not known yet is like padding, which every objective can read.
    logprobs_NI = torch.full_like(looked_at.ids_NI, ABSENT, dtype=call.projection.dtype)
    used_NI, entropy_N = torch.zeros_like(logprobs_NI), torch.zeros_like(logprobs_NI[:, 0])
    sums = GradientSums(call, [x is not None and x.requires_grad for x in call.inputs])
    evaluated: tuple[HeadLoss[Extra], Tensor] | None = None
    for chunk in call.chunks(call.from_the_end()):
        logprobs_NI[chunk.rows_R] = chunk.logprobs_RI
        entropy_N[chunk.rows_R] = chunk.entropy_R
        evaluated = _evaluate(loss, looked_at, logprobs_NI, entropy_N)
        gradient_RI = evaluated[1][chunk.rows_R]
        used_NI[chunk.rows_R] = gradient_RI
        sums.add(chunk, gradient_RI)
    assert evaluated is not None  # a batch has at least one response token
    # The last evaluation was on complete statistics.
    result, complete_NI = evaluated
    _check_that_nothing_changed(used_NI, complete_NI, loss.reads)
    return result, sums


def _evaluate(
    loss: BatchLoss[Extra], looked_at: LookedAt, logprobs_NI: Tensor, entropy_N: Tensor
) -> tuple[HeadLoss[Extra], Tensor]:
    """The loss of statistics as far as they are known, and its gradient in [N, I]."""
    free_NI = logprobs_NI.detach().requires_grad_()
    stats = _statistics(looked_at, free_NI, entropy_N)
    value, extra = loss(stats)
    (gradient_NI,) = torch.autograd.grad(value, free_NI)
    return HeadLoss(loss=value.detach(), stats=stats.detach(), extra=extra), gradient_NI


def _statistics(looked_at: LookedAt, logprobs_NI: Tensor, entropy_N: Tensor) -> StudentStatistics:
    # Stops the gradient too where there is no id.
    masked_NI = torch.where(looked_at.present_NI, logprobs_NI, ABSENT)
    return looked_at.statistics(masked_NI, entropy_N if looked_at.needs.entropy else None)


def _check_that_nothing_changed(used_NI: Tensor, complete_NI: Tensor, reads: str) -> None:
    gap = (used_NI - complete_NI).abs().max()
    # A gradient that is not finite is the learner's to skip; it compares to nothing.
    if gap > _TOLERANCE * complete_NI.abs().max():
        raise ValueError(
            f"reads: the objective says {reads!r}, but the gradient at a token changed by "
            f"{float(gap):.1e} with statistics of other tokens; an objective that compares tokens "
            "needs reads='all'"
        )


class _Known(torch.autograd.Function):
    """A loss whose gradients are known already."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        loss: Tensor,
        sums: GradientSums,
    ) -> Tensor:
        ctx.sums = sums
        return loss.clone()

    @staticmethod
    @once_differentiable  # its type loses the name of the first parameter
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (gradient,) = grad_outputs
        gradients = cast(GradientSums, ctx.sums).take()
        # One pass over the weights is saved in the usual case.
        if gradient != 1:
            gradients = [x if x is None else x.mul_(gradient) for x in gradients]
        return (*gradients, None, None)


class _Recomputed(torch.autograd.Function):
    """Log-probs and entropies in [N, I] and [N]; the backward pass starts from hidden states."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, call: ChunkedCall
    ) -> tuple[Tensor, Tensor]:
        # Saved for autograd to notice when one of them is changed before the backward pass.
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V)
        ctx.call = call
        logprobs_NI = torch.empty_like(call.looked_at.ids_NI, dtype=call.projection.dtype)
        entropy_N = torch.empty_like(logprobs_NI[:, 0])
        for chunk in call.chunks(call.from_the_end()):
            logprobs_NI[chunk.rows_R] = chunk.logprobs_RI
            entropy_N[chunk.rows_R] = chunk.entropy_R
        ctx.mark_non_differentiable(entropy_N)
        return logprobs_NI, entropy_N

    @staticmethod
    @once_differentiable  # its type loses the name of the first parameter
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        gradient_NI, _ = grad_outputs
        call = cast(ChunkedCall, ctx.call)
        assert len(ctx.saved_tensors) == 3
        sums = GradientSums(call, ctx.needs_input_grad[:3])
        for chunk in call.chunks(call.from_the_end()):
            sums.add(chunk, gradient_NI[chunk.rows_R])
        return (*sums.take(), None)
