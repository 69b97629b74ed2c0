"""The rows of one call of a head in chunks, and the sums of their gradients.

    for chunk in call.chunks(order_N):
        sums.add(chunk, gradient_RI)
    hidden_NH, weight_VH, bias_V = sums.take()

Dimensions: N real response positions of a batch, R of a chunk, H of a hidden state, V vocabulary, I
ids to look at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from preceptor_trainer.model.heads.head import LookedAt
from preceptor_trainer.model.heads.projection import Projection, differentiate_, normalise_


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some rows of a call."""

    rows_R: Tensor
    """Their places among the N."""
    hidden_RH: Tensor
    columns_RI: Tensor
    probs_RV: Tensor
    """The buffer of the call, which the next chunk overwrites."""
    logprobs_RI: Tensor
    """Meaningless where there is no id."""
    entropy_R: Tensor


@dataclass(frozen=True, kw_only=True)
class ChunkedCall:
    """One call of a head, in chunks of `num_rows`."""

    hidden_NH: Tensor
    projection: Projection
    looked_at: LookedAt
    num_rows: int

    @classmethod
    def of(
        cls, hidden_NH: Tensor, output: nn.Module, looked_at: LookedAt, chunk_bytes: int
    ) -> ChunkedCall:
        """Chunks of equal size, whose logits take at most `chunk_bytes`, or one row.

        Raises:
            ValueError: the output embedding is not linear.
        """
        projection = Projection.of(output)
        row_bytes = len(projection.weight_VH) * projection.dtype.itemsize
        num_chunks = math.ceil(len(hidden_NH) / max(1, chunk_bytes // row_bytes))
        return cls(
            hidden_NH=hidden_NH,
            projection=projection,
            looked_at=looked_at,
            num_rows=math.ceil(len(hidden_NH) / num_chunks),
        )

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """What has gradients: hidden states, weights, bias."""
        return self.hidden_NH, self.projection.weight_VH, self.projection.bias_V

    def from_the_end(self) -> Tensor:
        """[N] rows, those of the last response positions first."""
        position_N = self.looked_at.batch.response_mask_BT.nonzero(as_tuple=True)[1]
        return position_N.argsort(descending=True, stable=True)

    @torch.no_grad()
    def chunks(self, order_N: Tensor) -> Iterator[Chunk]:
        """The chunks one after the other, all in one buffer."""
        columns_NI = self.looked_at.columns_NI
        buffer_RV = self.hidden_NH.new_empty(
            self.num_rows, len(self.projection.weight_VH), dtype=self.projection.dtype
        )
        for rows_R in torch.split(order_N, self.num_rows):
            hidden_RH = self.hidden_NH[rows_R].to(self.projection.dtype)
            columns_RI = columns_NI[rows_R]
            logits_RV = buffer_RV[: len(rows_R)]
            self.projection.logits(hidden_RH, logits_RV)
            found_RI = logits_RV.gather(1, columns_RI)
            log_mass_R, entropy_R = normalise_(logits_RV)
            yield Chunk(
                rows_R=rows_R,
                hidden_RH=hidden_RH,
                columns_RI=columns_RI,
                probs_RV=logits_RV,
                logprobs_RI=found_RI - log_mass_R[:, None],
                entropy_R=entropy_R,
            )


class GradientSums:
    """Gradients of a call's inputs; None where none is needed."""

    def __init__(self, call: ChunkedCall, needed: Sequence[bool]) -> None:
        self._projection = call.projection
        self._dtypes = [None if x is None else x.dtype for x in call.inputs]
        # In float32 over all chunks, also for weights of 16 bits: rounding every chunk's part
        # before the sum biases training.
        self._sums = [
            torch.zeros_like(x, dtype=call.projection.dtype) if x is not None and wanted else None
            for x, wanted in zip(call.inputs, needed, strict=True)
        ]

    @torch.no_grad()
    def add(self, chunk: Chunk, gradient_RI: Tensor) -> None:
        """Add a chunk's part; its probabilities are overwritten.

        Args:
            chunk: its buffer still holds its probabilities.
            gradient_RI: of the loss with respect to the chunk's log-probs.
        """
        gradient_RV = differentiate_(chunk.probs_RV, chunk.columns_RI, gradient_RI)
        hidden_NH, weight_VH, bias_V = self._sums
        if hidden_NH is not None:
            hidden_NH[chunk.rows_R] = self._projection.back(gradient_RV)
        if weight_VH is not None:
            weight_VH.addmm_(gradient_RV.T, chunk.hidden_RH)
        if bias_V is not None:
            bias_V += gradient_RV.sum(0)

    def take(self) -> list[Tensor | None]:
        """The sums, in the dtypes of their inputs; can be called once."""
        # No reference stays here, so that autograd makes them the gradients of parameters as they
        # are, instead of copying them.
        sums, self._sums = self._sums, []
        return [
            x if x is None else x.to(dtype) for x, dtype in zip(sums, self._dtypes, strict=True)
        ]
