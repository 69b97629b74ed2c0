"""From hidden states to entries: normaliser, k best and requested ids, without a `[T, V]` tensor.

Rows are processed in chunks, so that logits never exceed a given number of elements. On a CPU the
head is applied to blocks of columns that fit into the cache, and one compiled loop reads all that
is needed from a block while it is cached (`sweep_kernel.py`).

On a GPU the head is applied to all columns at once, and one kernel (`block_kernel.py`) computes

    logsumexp      of each part of a row
    maxima         of each run of 128 columns

The k best logits are in the k runs with the largest maxima, since each of these runs has a logit
that is at least as large as any outside them. So searching only these k runs is exact. Number types
that the CPU's loop does not support are processed in the same way in eager torch.

Columns beyond the real vocabulary (padding of the head) count in the normaliser, as they do when
the student samples, but are never entries: their probability is part of the tail.

Dimensions: R rows (queried positions), K entries of a row, A requested ids, V rows of the head, W
rows of the head padded to whole runs, C columns of a block, M runs, N columns of a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from preceptor_services.experts.engine.blocks import ROWS, filled
from preceptor_services.experts.engine.models import Scorer
from preceptor_services.experts.engine.side_by_side import side_by_side

RUN: Final = 128
"""Columns of a run, of which the maximum is kept."""
BLOCK: Final = 32 * RUN
"""Columns that eager torch processes at a time on a CPU; smaller heads are processed whole."""

_SWEPT: Final = frozenset({torch.bfloat16, torch.float32})
"""Types of logits that `sweep_kernel.py` reads."""
_SWEPT_ROWS: Final = 512
SWEPT_COLUMNS: Final = 1024
"""Size of a block for the compiled loop: 1 MB in 16 bits. Fewer rows make the product slower; more
rows or columns exceed the cache of a core."""


@dataclass(frozen=True, kw_only=True)
class Entries:
    """The result of `read_head`, on the scorer's device."""

    ids_RK: Tensor
    """int32."""
    logprobs_RK: Tensor
    """float32, descending."""
    asked_logprobs_RA: Tensor
    """float32; undefined where the requested id is -1."""


def read_head(
    scorer: Scorer,
    hidden: Tensor,
    asked_RA: Tensor,
    *,
    top_k: int,
    vocab_size: int,
    max_logits: int,
) -> Entries:
    """Log-probs of the best and of the requested ids.

    Args:
        scorer: The model with the head.
        hidden: `[R, ...]` as returned by the scorer.
        asked_RA: int64 ids to score additionally; -1 is padding.
        top_k: Entries per row, at most `vocab_size`.
        vocab_size: Ids below it may be entries.
        max_logits: Elements in memory at once, but at least one row.
    """
    read, threads, step = _read_large, 1, max_logits // scorer.num_logits
    if scorer.num_logits <= BLOCK:
        read = _read_small
    elif is_swept(scorer):
        read, threads = _read_swept, torch.get_num_threads()
        step = min(max_logits // (threads * SWEPT_COLUMNS), _SWEPT_ROWS)
        # The same number of pieces for each thread, of equal size.
        num_pieces = -(-len(hidden) // (max(1, step) * threads)) * threads
        step = min(step, -(-len(hidden) // (num_pieces * ROWS)) * ROWS)
    # Chunks of equal length, also the last one: rows are padded to a multiple of ROWS, which every
    # smaller power of two divides.
    step = step - step % ROWS if step > ROWS else 1 << (max(1, step).bit_length() - 1)
    pieces = list(zip(_cut(filled(hidden), step), _cut(filled(asked_RA), step), strict=True))

    def read_piece(piece: tuple[Tensor, Tensor]) -> Entries:
        return read(scorer, *piece, top_k, vocab_size)

    chunks = side_by_side(read_piece, pieces) if threads > 1 else list(map(read_piece, pieces))
    return Entries(
        ids_RK=torch.cat([chunk.ids_RK for chunk in chunks])[: len(hidden)],
        logprobs_RK=torch.cat([chunk.logprobs_RK for chunk in chunks])[: len(hidden)],
        asked_logprobs_RA=torch.cat([chunk.asked_logprobs_RA for chunk in chunks])[: len(hidden)],
    )


def _cut(rows: Tensor, step: int) -> list[Tensor]:
    return [rows[start : start + step] for start in range(0, len(rows), step)]


def is_swept(scorer: Scorer) -> bool:
    """Whether the compiled loop processes its head in blocks."""
    return (
        scorer.num_logits > BLOCK and scorer.device.type == "cpu" and scorer.logits_dtype in _SWEPT
    )


def _read_small(
    scorer: Scorer, hidden: Tensor, asked_RA: Tensor, top_k: int, vocab_size: int
) -> Entries:
    logits_RV = scorer.logits(hidden, 0, scorer.num_logits).float()
    # Over all rows of the head, padding included, as the student normalises when it samples.
    # Entries are only from the real vocabulary.
    normaliser_R1 = logits_RV.logsumexp(-1, keepdim=True)
    best = logits_RV[:, :vocab_size].topk(top_k, dim=-1)
    return Entries(
        ids_RK=best.indices.to(torch.int32),
        logprobs_RK=best.values - normaliser_R1,
        asked_logprobs_RA=logits_RV.gather(1, asked_RA.clamp(min=0)) - normaliser_R1,
    )


def _read_swept(
    scorer: Scorer, hidden: Tensor, asked_RA: Tensor, top_k: int, vocab_size: int
) -> Entries:
    # Imported here, because numba takes half a second to import and a small vocabulary does not use
    # it.
    from preceptor_services.experts.engine.sweep_kernel import Sweep

    sweep = Sweep(asked_RA, top_k=top_k, vocab_size=vocab_size)
    for start in range(0, scorer.num_logits, SWEPT_COLUMNS):
        stop = min(start + SWEPT_COLUMNS, scorer.num_logits)
        sweep.take(scorer.logits(hidden, start, stop), start)
    ids_RK, logits_RK, normaliser_R1, asked_logits_RA = sweep.found()
    return Entries(
        ids_RK=ids_RK,
        logprobs_RK=logits_RK - normaliser_R1,
        asked_logprobs_RA=asked_logits_RA - normaliser_R1,
    )


def _read_large(
    scorer: Scorer, hidden: Tensor, asked_RA: Tensor, top_k: int, vocab_size: int
) -> Entries:
    logits_RW, normaliser_R1, maxima_RM = _swept(scorer, hidden, vocab_size)
    if 2 * top_k * RUN >= vocab_size:  # most runs would be searched
        values_RK, ids_RK = logits_RW[:, :vocab_size].topk(top_k, dim=-1)
    else:
        values_RK, ids_RK = _best_in_runs(logits_RW, maxima_RM, top_k, vocab_size)
    return Entries(
        ids_RK=ids_RK.to(torch.int32),
        logprobs_RK=values_RK.float() - normaliser_R1,
        asked_logprobs_RA=logits_RW.gather(1, asked_RA.clamp(min=0)).float() - normaliser_R1,
    )


def _swept(scorer: Scorer, hidden: Tensor, vocab_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits `[R, W]` (whole runs, padded with -inf), normaliser `[R, 1]`, maxima `[R, W/RUN]`.

    Maxima are over the real vocabulary only.
    """
    num_logits = scorer.num_logits
    width = -(-num_logits // RUN) * RUN
    on_gpu = hidden.device.type == "cuda"
    step = width if on_gpu else BLOCK
    statistics = _gpu_statistics if on_gpu else _statistics
    logits_RW = hidden.new_empty((len(hidden), width), dtype=scorer.logits_dtype)
    # exp(-inf) is 0 and -inf is never a maximum, so the padding of the last run affects no result.
    logits_RW[:, num_logits:] = float("-inf")
    normalisers: list[Tensor] = []
    maxima: list[Tensor] = []
    for start in range(0, width, step):
        block_RC = logits_RW[:, start : start + step]
        stop = min(start + step, num_logits)
        block_RC[:, : stop - start] = scorer.logits(hidden, start, stop)
        normaliser, highest = statistics(block_RC, vocab_size - start)
        normalisers.append(normaliser)
        maxima.append(highest)
    # The logsumexp of the parts' logsumexps is that of the whole row, which is never held in
    # float32.
    normaliser_R1 = torch.cat(normalisers, dim=1).logsumexp(-1, keepdim=True)
    return logits_RW, normaliser_R1, torch.cat(maxima, dim=1)


def _statistics(block_RC: Tensor, num_real: int) -> tuple[Tensor, Tensor]:
    """Logsumexp `[R, 1]` of a block; maxima of the runs of its first `num_real` columns."""
    values_RC = block_RC.to(torch.float32, copy=True)
    maxima_RM = values_RC.view(len(values_RC), -1, RUN).amax(-1)
    highest_R1 = maxima_RM.amax(-1, keepdim=True)
    if num_real < values_RC.shape[1]:
        first = max(0, num_real) // RUN
        maxima_RM[:, first:] = float("-inf")
        if num_real > first * RUN:
            maxima_RM[:, first] = values_RC[:, first * RUN : num_real].amax(-1)
    # In place, while the block is in the cache: this step takes most of the time.
    sums_R1 = values_RC.sub_(highest_R1).exp_().sum(-1, keepdim=True)
    return sums_R1.log_().add_(highest_R1), maxima_RM


def _gpu_statistics(block_RC: Tensor, num_real: int) -> tuple[Tensor, Tensor]:
    # Imported here, because triton is installed only with torch for GPUs.
    from preceptor_services.experts.engine.block_kernel import block_statistics

    return block_statistics(block_RC, num_real, run=RUN)


def _best_in_runs(
    logits_RW: Tensor, maxima_RM: Tensor, top_k: int, vocab_size: int
) -> tuple[Tensor, Tensor]:
    """Values and ids `[R, K]` of the k best, searched in the k runs with the largest maxima."""
    runs_RK = maxima_RM.topk(top_k, dim=-1).indices
    index_RKN = runs_RK[:, :, None].expand(-1, -1, RUN)
    found_RKN = logits_RW.view(len(logits_RW), -1, RUN).gather(1, index_RKN)
    # The last run of the vocabulary also has ids beyond it: its maximum excludes them, so the
    # search must exclude them too.
    if vocab_size % RUN:
        is_last = (runs_RK == vocab_size // RUN)[:, :, None]
        found_RKN[:, :, vocab_size % RUN :].masked_fill_(is_last, float("-inf"))
    values_RK, places_RK = found_RKN.flatten(1).topk(top_k, dim=-1)
    ids_RK = runs_RK.gather(1, places_RK // RUN) * RUN + places_RK % RUN
    return values_RK, ids_RK
