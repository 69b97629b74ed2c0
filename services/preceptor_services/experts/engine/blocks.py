"""Attention over packed sequences whose bits do not depend on the other packed sequences.

Floating-point sums depend on how a library splits them, and it splits them by the shapes of its
arguments. So the shapes here depend on places only: the places of every sequence are split into the
same blocks, and the queries of a block attend to every key up to its end, padded where the sequence
ends before. Blocks that are the same in several sequences are computed once.

    places   0..31      32..63     64..95          96..127
    queries  32 of 32   32 of 64   32 of 96 keys   32 of 128 keys

Products of the linear layers over all packed tokens keep the bits of a row as long as the number of
rows is a multiple of `ROWS`: `filled` pads them. All this holds on a CPU; on a GPU `attention.py`
works segment by segment, which is faster there. Source of the idea: batch invariance
as in "Defeating Nondeterminism in LLM Inference" (Thinking Machines Lab, 2025).

Dimensions: N packed tokens, B beginnings that share a block, Q queries of a block, K keys up to its
end, G query heads, M key heads, D of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

ROWS: Final = 32
"""The rows of a product are padded to a multiple of it; remaining rows may be summed
differently."""
_BLOCKS: Final = ((512, 32), (1024, 64), (2048, 128))
"""Length of the blocks below a place: small blocks share more, large ones need fewer calls."""
_LONGEST_BLOCK: Final = 256
_GATHERED: Final = 1 << 15
"""Number of tokens whose keys are copied at a time."""


@dataclass(frozen=True, eq=False)
class Block:
    """The same places of B different prefixes."""

    start: int
    """Place of the first query; the last one is the last key."""
    rows_BK: Tensor
    """int64 packed index of every token up to the end of the block; padded with the last one."""

    @property
    def num_queries(self) -> int:
        """Q."""
        return self.rows_BK.shape[1] - self.start

    def parts(self) -> Iterator[Tensor]:
        """`rows_BK`, a bounded number of keys at a time."""
        # Bounded by keys and not by rows: late blocks have many more keys than early ones. The
        # number of rows processed together does not change the bits of a row.
        step = max(1, _GATHERED // self.rows_BK.shape[1])
        for first in range(0, len(self.rows_BK), step):
            yield self.rows_BK[first : first + step]


def blocks_of(rows: Sequence[np.ndarray]) -> tuple[Block, ...]:
    """Blocks of sequences, of which `rows` holds the packed index of every token."""
    blocks: list[Block] = []
    for start, stop in _cuts(max(map(len, rows))):
        # In a tree, the last token of a block determines the tokens before it.
        different = {int(r[min(stop, len(r)) - 1]): r for r in rows if len(r) > start}
        rows_BK = np.empty((len(different), stop), np.int64)
        for row, r in zip(rows_BK, different.values(), strict=True):
            row[: len(r)] = r[:stop]
            # Padding with any token would work, since no real query attends to it. The last one
            # makes padding recognisable, because it repeats.
            row[len(r) :] = r[-1]
        blocks.append(Block(start, torch.tensor(rows_BK)))
    return tuple(blocks)


def _cuts(length: int) -> Iterator[tuple[int, int]]:
    start = 0
    while start < length:
        size = next((size for end, size in _BLOCKS if start < end), _LONGEST_BLOCK)
        yield start, start + size
        start += size


def filled(values: Tensor) -> Tensor:
    """`values` with copies of the last row, up to a multiple of `ROWS`."""
    missing = -len(values) % ROWS
    return torch.cat([values, values[-1:].expand(missing, *values.shape[1:])])


def attend_blocks(
    query_1GND: Tensor,
    key_1MND: Tensor,
    value_1MND: Tensor,
    blocks: Sequence[Block],
    *,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """`[N, G, D]` of every packed token; 0 for tokens of no sequence.

    Args:
        query_1GND: `[1, G, N, D]`.
        key_1MND: `[1, M, N, D]`, where M divides G.
        value_1MND: Likewise.
        blocks: The blocks of the packed sequences.
        scaling: Factor of the scores; 1 / sqrt(D) where absent.
        window: Most tokens that a token attends to, itself included; all where absent.
    """
    query_NGD, key_NMD, value_NMD = (
        s[0].transpose(0, 1) for s in (query_1GND, key_1MND, value_1MND)
    )
    out_NGD = query_NGD.new_zeros((*query_NGD.shape[:2], value_NMD.shape[-1]))
    for block in blocks:
        mask_QK = _mask(block, window, query_NGD)
        for rows_BK in block.parts():
            rows_BQ = rows_BK[:, block.start :]
            attended_BGQD = scaled_dot_product_attention(
                query_NGD[rows_BQ].transpose(1, 2),
                key_NMD[rows_BK].transpose(1, 2),
                value_NMD[rows_BK].transpose(1, 2),
                attn_mask=mask_QK,
                scale=scaling,
                enable_gqa=query_NGD.shape[1] != key_NMD.shape[1],
            )
            # Padding of a block repeats its last token at other places, so it is skipped.
            real_BQ = torch.ones_like(rows_BQ, dtype=torch.bool)
            real_BQ[:, 1:] = rows_BQ[:, 1:] != rows_BQ[:, :-1]
            out_NGD[rows_BQ[real_BQ]] = attended_BGQD.transpose(1, 2)[real_BQ]
    return out_NGD


def _mask(block: Block, window: int | None, like: Tensor) -> Tensor:
    """`[Q, K]` numbers to add to the scores; a boolean mask would be converted every time."""
    hidden_QK = torch.full(
        (block.num_queries, block.rows_BK.shape[1]), float("-inf"), dtype=like.dtype
    )
    later_QK = hidden_QK.triu(block.start + 1)
    return later_QK if window is None else later_QK + hidden_QK.tril(block.start - window)
