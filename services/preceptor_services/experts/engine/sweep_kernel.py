"""The statistics of a block of logits on a CPU, in one pass over each row while it is cached.

Eager torch reads a block five times and writes float32 copies of it, which costs as much as the
product that made the block. This loop, compiled by numba (no compiler is needed), updates the
logsumexp, the requested ids and the k best so far, and discards the block.

The k best are kept in a heap of integers that sort by (logit, lower id first): the bits of a number
as a signed integer, with all bits but the sign inverted below zero, sort like the number.
A run whose maximum is not above the worst kept entry is not searched.

Dimensions: R rows, C columns of a block, K entries kept, A requested ids.
"""

# pyright: basic
# (numba's compiled functions have plain types)

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

_RUN: Final = 64
"""Columns whose maximum decides whether they are searched."""
_PART: Final = 16
"""Columns of a run that are searched together, if their maximum is good enough."""
_LOW: Final = 0x7FFF_FFFF
_EMPTY: Final = np.iinfo(np.int64).min
_LOG2_E: Final = np.float32(1.4426950408889634)
# Without "nnan" and "ninf": a NaN among the logits must make the normaliser NaN.
_FAST: Final = {"reassoc", "contract", "arcp", "nsz"}


@njit(inline="always")
def _exp(x: Any) -> Any:
    """exp of a float32 <= 0, exact to two units in the last place."""
    y = x * _LOG2_E
    # Below this bound the exponent bits of the last line would underflow. The largest logit adds 1
    # to the sum, beside which 2^-126 is negligible.
    y = np.float32(-126.0) if y < np.float32(-126.0) else y
    whole = np.int32(y - np.float32(0.5))
    part = y - np.float32(whole)
    # Least-squares polynomial of 2**part on [-0.5, 0.5].
    power = np.float32(1.5353362e-4)
    power = power * part + np.float32(1.3398874e-3)
    power = power * part + np.float32(9.6184373e-3)
    power = power * part + np.float32(5.5503324e-2)
    power = power * part + np.float32(2.4022648e-1)
    power = power * part + np.float32(6.9314720e-1)
    power = power * part + np.float32(1.0)
    return power * np.int32((whole + np.int32(127)) << np.int32(23)).view(np.float32)


@njit
def _replace_worst(heap: Any, key: Any) -> None:
    """Replaces the first and smallest element of a heap by `key`."""
    one, size = np.uint64(1), np.uint64(len(heap))
    place = np.uint64(0)
    while place + place + one < size:
        child = place + place + one
        if child + one < size:
            # Added instead of branched: the branch could not be predicted.
            child += np.uint64(heap[child + one] < heap[child])
        if heap[child] >= key:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = key


def _compiled(narrow: Any, shift: int) -> Callable[..., None]:
    """The loop for logits whose bits, as a `narrow` integer shifted by `shift`, are a float32."""
    least, low = narrow(np.iinfo(narrow).min), narrow(np.iinfo(narrow).max)
    sign = narrow(np.iinfo(narrow).bits - 1)

    @njit(inline="always")
    def ordered(bits):
        # Maps bits to integers that sort like the numbers; it is its own inverse. It works in the
        # width of the logits, so that a register holds as many of them as possible.
        return narrow(bits ^ narrow(narrow(bits >> sign) & low))

    @njit(inline="always")
    def logit_of(bits):
        return np.int32(np.int32(bits) << np.int32(shift)).view(np.float32)

    @njit(inline="always")
    def highest_of(bits_C, first, length):
        # A loop of fixed length is nine times as fast, because the compiler unrolls it.
        highest = least
        for column in range(first, first + length):
            highest = narrow(max(highest, ordered(bits_C[column])))
        return highest

    @njit(inline="always")
    def keep_better(bits_C, first, last, first_id, heap, worst):
        for column in range(first, last):
            value = ordered(bits_C[column])
            if value > worst:
                bits = np.int32(np.int32(bits_C[column]) << np.int32(shift))
                wide = np.int64(bits ^ ((bits >> np.int32(31)) & np.int32(_LOW)))
                # The id is counted downwards, so that among equal logits the lower id is the better
                # one, as in a stable sort.
                _replace_worst(heap, (wide << 32) | (_LOW - first_id - column))
                worst = narrow(heap[0] >> (32 + shift))
        return worst

    @njit(nogil=True, fastmath=_FAST)
    def sweep(bits_RC, first_id, num_real, normalisers_R, heaps_RK, asked_RA, asked_logits_RA):
        num_rows, num_columns = bits_RC.shape
        num_runs = num_columns // _RUN
        real = min(num_columns, max(0, num_real))
        maxima = np.empty(num_runs, narrow)
        for row in range(num_rows):
            bits_C, heap = bits_RC[row], heaps_RK[row]
            best = least
            for run in range(num_runs):
                maxima[run] = highest_of(bits_C, run * _RUN, _RUN)
                best = max(best, maxima[run])
            for column in range(num_runs * _RUN, num_columns):
                best = max(best, ordered(bits_C[column]))
            # The heap is initialised with the smallest integer, so every entry is better until it
            # is full. With an empty heap no entry is better, and no run is searched.
            worst = narrow(heap[0] >> (32 + shift)) if len(heap) else low
            real_runs = real // _RUN
            for run in range(real_runs):
                if maxima[run] <= worst:
                    continue
                for first in range(run * _RUN, run * _RUN + _RUN, _PART):
                    if highest_of(bits_C, first, _PART) > worst:
                        worst = keep_better(bits_C, first, first + _PART, first_id, heap, worst)
            worst = keep_better(bits_C, real_runs * _RUN, real, first_id, heap, worst)
            highest_logit = logit_of(ordered(best))
            total = np.float32(0.0)
            # Padding of the vocabulary is included: it counts in the normaliser, and its highest
            # logit in `best`.
            for column in range(num_columns):
                total += _exp(logit_of(bits_C[column]) - highest_logit)
            normalisers_R[row] = highest_logit + np.float32(math.log(total))
            for a in range(asked_RA.shape[1]):
                column = asked_RA[row, a] - first_id
                if 0 <= column < num_columns:
                    asked_logits_RA[row, a] = logit_of(bits_C[column])

    return sweep


_KERNELS: Final = {
    torch.bfloat16: (torch.int16, _compiled(np.int16, 16)),
    torch.float32: (torch.int32, _compiled(np.int32, 0)),
}


class Sweep:
    """State of rows whose blocks of logits are processed from the lowest ids to the highest."""

    def __init__(self, asked_RA: Tensor, *, top_k: int, vocab_size: int) -> None:
        """Starts without any block.

        Args:
            asked_RA: int64 ids whose logits are requested; -1 is padding.
            top_k: Entries to keep per row.
            vocab_size: Ids below it may be entries.
        """
        self._asked_RA: NDArray[np.int64] = asked_RA.numpy()
        self._asked_logits_RA = np.zeros(asked_RA.shape, np.float32)
        self._heaps_RK = np.full((len(asked_RA), top_k), _EMPTY, np.int64)
        self._normalisers: list[NDArray[np.float32]] = []
        self._vocab_size = vocab_size

    def take(self, logits_RC: Tensor, first_id: int) -> None:
        """Processes the next block, whose first column has the logits of `first_id`."""
        as_bits, sweep = _KERNELS[logits_RC.dtype]
        self._normalisers.append(np.empty(len(logits_RC), np.float32))
        sweep(
            logits_RC.view(as_bits).numpy(),
            first_id,
            self._vocab_size - first_id,
            self._normalisers[-1],
            self._heaps_RK,
            self._asked_RA,
            self._asked_logits_RA,
        )

    def found(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Ids `[R, K]` and logits `[R, K]` of the best, normaliser `[R, 1]`, requested `[R, A]`."""
        keys_RK = np.sort(self._heaps_RK, axis=-1)[:, ::-1]
        ids_RK = (_LOW - (keys_RK & _LOW)).astype(np.int32)
        ordered_RK = (keys_RK >> 32).astype(np.int32)
        logits_RK = (ordered_RK ^ ((ordered_RK >> 31) & np.int32(_LOW))).view(np.float32)
        normaliser_R1 = torch.tensor(np.stack(self._normalisers, 1)).logsumexp(-1, keepdim=True)
        return (
            torch.from_numpy(ids_RK),
            torch.from_numpy(logits_RK),
            normaliser_R1,
            torch.from_numpy(self._asked_logits_RA),
        )
