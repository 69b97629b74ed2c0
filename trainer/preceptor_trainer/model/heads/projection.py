"""The arithmetic of one chunk of logits: three matrix products, and what is done in place.

With logits z = W h + b, probabilities p = softmax(z), and g the gradient of the loss with respect
to the log-probs at some ids of a row:

    log p_i = z_i - logsumexp(z)        dz = scatter(g) - sum(g) p
    dh      = dz W                      dW = sum over rows of dz h,   db = sum over rows of dz

Everything of a chunk happens in its buffer of logits: they become probabilities, then gradients.
Sums are in float32 also for weights of 16 bits, which are converted one part of the vocabulary at a
time. This is plain torch for any device. Kernels of a device's own would replace this file.

Dimensions: R rows of a chunk, H of a hidden state, V vocabulary, I ids to look at.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor, nn

from preceptor_trainer.model.heads.head import at_least_float32

# Elements of a converted part of the weights, and of a few rows that stay in a core's cache.
_PART = 1 << 23
_CACHED = 1 << 19


@dataclass(frozen=True)
class Projection:
    """An output embedding as its weights."""

    weight_VH: Tensor
    bias_V: Tensor | None

    @classmethod
    def of(cls, output: nn.Module) -> "Projection":
        """The weights of a linear module.

        Raises:
            ValueError: the module may compute something else than a linear map.
        """
        if not is_linear(output):
            raise ValueError(
                f"head: the output embedding is a {type(output).__name__}, and LeanHead computes "
                "the logits of a plain torch.nn.Linear; use dense_head"
            )
        return cls(output.weight, output.bias)

    @property
    def dtype(self) -> torch.dtype:
        """Of logits and sums."""
        return at_least_float32(self.weight_VH.dtype)

    def logits(self, hidden_RH: Tensor, out_RV: Tensor) -> None:
        """Write the logits of some rows."""
        for columns, part_vH in self._parts():
            torch.mm(hidden_RH, part_vH.T, out=out_RV[:, columns])
        if self.bias_V is not None:
            out_RV += self.bias_V

    def back(self, gradient_RV: Tensor) -> Tensor:
        """[R, H] gradient of the hidden states."""
        out_RH = gradient_RV.new_zeros(len(gradient_RV), self.weight_VH.shape[1])
        for columns, part_vH in self._parts():
            out_RH.addmm_(gradient_RV[:, columns], part_vH)
        return out_RH

    def _parts(self) -> Iterator[tuple[slice, Tensor]]:
        if self.weight_VH.dtype == self.dtype:
            yield slice(None), self.weight_VH
            return
        size = max(1, _PART // self.weight_VH.shape[1])
        for start in range(0, len(self.weight_VH), size):
            columns = slice(start, start + size)
            yield columns, self.weight_VH[columns].to(self.dtype)


def is_linear(output: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether the module is its weight and bias and nothing else."""
    # The method of this very object: adapters and hooks replace it on a class or on an instance.
    return getattr(output.forward, "__func__", None) is nn.Linear.forward


def normalise_(logits_RV: Tensor) -> tuple[Tensor, Tensor]:
    """Turn logits into probabilities, in place.

    Returns:
        [R] logsumexp of the logits, and [R] entropy in nats.
    """
    log_mass_R, entropy_R = (torch.empty_like(logits_RV[:, 0]) for _ in range(2))
    # A few rows at a time: each step finds what the last one wrote in the cache, and what it
    # allocates is small.
    num_rows = max(1, _CACHED // logits_RV.shape[1])
    for start in range(0, len(logits_RV), num_rows):
        rows = slice(start, start + num_rows)
        logprobs_rV = logits_RV[rows]
        log_mass_r1 = logprobs_rV.logsumexp(1, keepdim=True)
        logprobs_rV -= log_mass_r1
        probs_rV = logprobs_rV.exp()
        log_mass_R[rows] = log_mass_r1[:, 0]
        entropy_R[rows] = -(logprobs_rV * probs_rV).sum(1)
        logprobs_rV.copy_(probs_rV)
    return log_mass_R, entropy_R


def differentiate_(probs_RV: Tensor, columns_RI: Tensor, gradient_RI: Tensor) -> Tensor:
    """Turn probabilities into the gradient of the logits, in place.

    Args:
        probs_RV: of the rows.
        columns_RI: the ids looked at; one id may be there several times.
        gradient_RI: of the log-probs at them.
    """
    probs_RV *= -gradient_RI.sum(1, keepdim=True)
    return probs_RV.scatter_add_(1, columns_RI, gradient_RI)
