"""The interface of heads, and what they share: which ids are looked at, and where they are put.

    stats = head(hidden_NH, output, batch, needs)                    # with gradient
    result = head.loss(hidden_NH, output, batch, needs, loss)
    result.loss.backward()                                           # the same gradient

`loss` is there for heads that never hold all logits. A head that knows the loss takes its gradient
with respect to a chunk's statistics while it still has the chunk's logits.

Dimensions: N real response positions of a batch, H of a hidden state, V vocabulary, I ids to look
at; B rows, T response positions, E components of a target, K ids of one, C candidate ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.model.statistics import (
    ABSENT,
    Needs,
    Reads,
    StudentStatistics,
    log_tail_mass,
)

Extra = TypeVar("Extra")
Extra_co = TypeVar("Extra_co", covariant=True)


class BatchLoss(Protocol[Extra_co]):
    """A batch's share of the loss, as a function of the batch's statistics."""

    @property
    def reads(self) -> Reads:
        """Which statistics the loss of one token is computed from."""
        ...

    def __call__(self, stats: StudentStatistics) -> tuple[Tensor, Extra_co]:
        """A scalar with gradient, and what else the caller wants of complete statistics."""
        ...


@dataclass(frozen=True, kw_only=True)
class HeadLoss(Generic[Extra]):
    """The loss of a batch."""

    loss: Tensor
    """Scalar, with a graph to the hidden states and the output embedding."""
    stats: StudentStatistics
    """Of all positions, without gradient."""
    extra: Extra
    """The second result of `BatchLoss` on these statistics."""


class Head(Protocol):
    """Hidden states in, statistics or a loss out."""

    def __call__(
        self, hidden_NH: Tensor, output: nn.Module, batch: TrainBatch, needs: Needs
    ) -> StudentStatistics:
        """Compute what is needed at the N real response positions of the batch, row by row."""
        ...

    def loss(
        self,
        hidden_NH: Tensor,
        output: nn.Module,
        batch: TrainBatch,
        needs: Needs,
        loss: BatchLoss[Extra],
    ) -> HeadLoss[Extra]:
        """Compute the loss of the statistics; its backward pass is the head's and the loss's."""
        ...


@dataclass(frozen=True, kw_only=True)
class LookedAt:
    """The ids of a batch whose log-probs are needed, side by side in [N, I]."""

    batch: TrainBatch
    needs: Needs
    ids_NI: Tensor
    """The sampled token, then the ids of all components, then the candidates; -1 is no id."""

    @classmethod
    def of(cls, batch: TrainBatch, needs: Needs) -> LookedAt:
        """The ids at the real response positions, row by row."""
        real = batch.response_mask_BT
        wanted = [batch.response_ids_BT[real][:, None]]
        if needs.target_logprobs:
            wanted.append(batch.targets.ids_BTEK[real].flatten(1))
        if needs.num_candidates:
            wanted.append(batch.targets.candidate_ids_BTC[real])
        return cls(batch=batch, needs=needs, ids_NI=torch.cat(wanted, dim=1))

    @property
    def columns_NI(self) -> Tensor:
        """Ids that may be gathered: 0 where there is none."""
        return self.ids_NI.clamp(min=0)

    @property
    def present_NI(self) -> Tensor:
        """Bool, False where there is no id."""
        return self.ids_NI >= 0

    def statistics(self, logprobs_NI: Tensor, entropy_N: Tensor | None) -> StudentStatistics:
        """Statistics in [B, T, ...]; padding and empty ids hold ABSENT."""
        real, targets = self.batch.response_mask_BT, self.batch.targets
        num_experts, num_ids = targets.ids_BTEK.shape[2:]
        sizes = [1]
        if self.needs.target_logprobs:
            sizes.append(num_experts * num_ids)
        if self.needs.num_candidates:
            sizes.append(targets.candidate_ids_BTC.shape[2])
        sampled_N1, *looked_at = torch.split(logprobs_NI, sizes, dim=1)

        target_BTEK = tail_BTE = candidate_BTC = entropy_BT = None
        if self.needs.target_logprobs:
            target_NEK = looked_at.pop(0).reshape(len(logprobs_NI), num_experts, num_ids)
            # From the student's mass on the ids: this is the student's tail, not the expert's.
            tail_NE = log_tail_mass(target_NEK, targets.ids_BTEK[real] >= 0)
            target_BTEK, tail_BTE = _spread(target_NEK, real), _spread(tail_NE, real)
        if self.needs.num_candidates:
            candidate_BTC = _spread(looked_at.pop(0), real)
        if entropy_N is not None:
            entropy_BT = _spread(entropy_N, real, absent=0.0)
        return StudentStatistics(
            sampled_logprobs_BT=_spread(sampled_N1[:, 0], real),
            target_logprobs_BTEK=target_BTEK,
            tail_logprobs_BTE=tail_BTE,
            candidate_logprobs_BTC=candidate_BTC,
            entropy_BT=entropy_BT,
        )


def unknown_statistics(batch: TrainBatch, needs: Needs, dtype: torch.dtype) -> StudentStatistics:
    """Statistics as if every position were padding, for a caller that does not read them."""
    looked_at = LookedAt.of(batch, needs)
    logprobs_NI = torch.full(
        looked_at.ids_NI.shape, ABSENT, dtype=dtype, device=looked_at.ids_NI.device
    )
    entropy_N = torch.zeros_like(logprobs_NI[:, 0]) if needs.entropy else None
    return looked_at.statistics(logprobs_NI, entropy_N)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype of statistics; a float64 model, used for gradient checks, keeps its own."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _spread(values_N: Tensor, real_BT: Tensor, absent: float = ABSENT) -> Tensor:
    """Put per-position values [N, ...] back into [B, T, ...]."""
    out = values_N.new_full((*real_BT.shape, *values_N.shape[1:]), absent)
    return out.index_put((real_BT,), values_N)
