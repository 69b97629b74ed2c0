"""The statistics of a block of logits on a GPU, in one pass, for `head.py`.

Eager torch would read the logits four times and write float32 copies of them. Each program reads
`_BLOCK` columns of one row once. Needs triton, which comes with torch for GPUs.

Dimensions: R rows (positions asked), C columns (logits of a block).
"""

# pyright: basic, reportMissingImports=false, reportIndexIssue=false
# (triton is installed only with torch for GPUs; its compiled functions have plain types)

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK: Final = 4096


@triton.jit
def _kernel(
    logits,
    normalisers,
    maxima,
    row_stride,
    num_columns,
    num_real,
    num_blocks,
    num_runs,
    BLOCK: tl.constexpr,
    RUN: tl.constexpr,
):
    # Rows times vocabulary may exceed 32 bits.
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    columns = block * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(
        logits + row * row_stride + columns, mask=columns < num_columns, other=float("-inf")
    ).to(tl.float32)
    highest = tl.max(values, axis=0)
    normaliser = highest + tl.log(tl.sum(tl.exp(values - highest), axis=0))
    tl.store(normalisers + row * num_blocks + block, normaliser)
    # After the sum: padding of the vocabulary counts in the normaliser but is never a maximum.
    real = tl.where(columns < num_real, values, float("-inf"))
    of_runs = tl.max(tl.reshape(real, (BLOCK // RUN, RUN)), axis=1)
    runs = block * (BLOCK // RUN) + tl.arange(0, BLOCK // RUN)
    tl.store(maxima + row * num_runs + runs, of_runs, mask=runs < num_runs)


def block_statistics(block_RC: Tensor, num_real: int, *, run: int) -> tuple[Tensor, Tensor]:
    """Logsumexp of the parts of a block, and the maximum of each run of its first columns.

    Args:
        block_RC: Logits of any float type, columns contiguous, whole runs.
        num_real: Columns that may be a maximum; all of them count in the logsumexp.
        run: Columns of a run; a power of two, at most 4,096.

    Returns:
        `[R, C/4096]` (rounded up) and `[R, C/run]`, float32.
    """
    num_rows, num_columns = block_RC.shape
    num_blocks, num_runs = triton.cdiv(num_columns, _BLOCK), num_columns // run
    normalisers = block_RC.new_empty((num_rows, num_blocks), dtype=torch.float32)
    maxima = block_RC.new_empty((num_rows, num_runs), dtype=torch.float32)
    _kernel[(num_rows, num_blocks)](
        block_RC,
        normalisers,
        maxima,
        block_RC.stride(0),
        num_columns,
        num_real,
        num_blocks,
        num_runs,
        BLOCK=_BLOCK,
        RUN=run,
        num_warps=8,
    )
    return normalisers, maxima
