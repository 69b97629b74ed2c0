"""The grid of log-probs that travel as 16-bit codes.

Code 0 is a missing value; code c > 0 is -32 + (c - 1) * 32/65534, so that 1 is -32 and 65535 is 0.
The step of 4.9e-4 changes a probability by at most 0.025 %, which is below what bf16 models
resolve. An expert rounds first and computes tails from the rounded values; then the codes lose
nothing.
"""

from __future__ import annotations

import weakref
from typing import Final

import numpy as np

MISSING: Final = -1e9
LOGPROB_FLOOR: Final = -32.0
LOGPROB_STEP: Final = 32.0 / 65534.0


def _values() -> np.ndarray:
    values = np.arange(-1, 65535, dtype=np.float64) * LOGPROB_STEP + LOGPROB_FLOOR
    # Of the 65,536 codes, the grid begins at 1, so that 1 is the floor and 65,535 exactly 0.
    values[0] = MISSING
    return values.astype(np.float32)


_VALUES: Final = _values()


def codes(logprobs: np.ndarray) -> np.ndarray:
    """The nearest code of each log-prob, as little-endian u16 of the same shape."""
    # float32 is exact enough: its error of 2e-6 at -32 is far below the half step of 2.4e-4, and a
    # value of the grid always comes back to its own code.
    clipped = np.clip(logprobs, np.float32(LOGPROB_FLOOR), np.float32(0.0), dtype=np.float32)
    steps = np.rint((clipped - np.float32(LOGPROB_FLOOR)) * np.float32(1.0 / LOGPROB_STEP))
    # Half of it, because a MISSING that went through float32 or a sum is still far below any
    # log-prob. Minus infinity is no missing value: it is a probability of 0, which becomes the
    # floor.
    missing = (logprobs <= MISSING / 2) & (logprobs > -np.inf)
    return np.where(missing, np.float32(0.0), steps + np.float32(1.0)).astype("<u2")


def values(of: np.ndarray) -> np.ndarray:
    """The log-probs of codes, as float32; `MISSING` for code 0."""
    # Every u16 is a place of the table, so that "wrap" changes nothing; it only skips a check.
    return _VALUES.take(of, mode="wrap")


def quantise(logprobs: np.ndarray) -> np.ndarray:
    """Log-probs rounded to the grid, as float32; what is missing stays missing."""
    return values(codes(logprobs))


_known: dict[int, tuple[weakref.ref[np.ndarray], np.ndarray]] = {}


def read_only_values(of: np.ndarray) -> np.ndarray:
    """`values`, in an array that cannot be written to, and whose codes `known_codes` returns.

    An answer is read and rendered again at several places. Computing its codes takes most of the
    time of rendering it.
    """
    array = values(of)
    array.setflags(write=False)
    key = id(array)
    # Python ends the weak reference before another array can have the same id.
    _known[key] = (weakref.ref(array, lambda _: _known.pop(key, None)), of)
    return array


def known_codes(array: np.ndarray) -> np.ndarray | None:
    """The codes from which `read_only_values` made this array; None for any other array."""
    found = _known.get(id(array))
    if found is None or found[0]() is not array or array.flags.writeable:
        return None
    return found[1]


def is_on_grid(logprobs: np.ndarray) -> bool:
    """Whether rounding would change nothing."""
    return known_codes(logprobs) is not None or np.array_equal(quantise(logprobs), logprobs)
