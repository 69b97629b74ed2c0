"""Rows without padding: where every token of a batch stands, in as many equal bins as possible.

    layout = lay_out(batch, shares=True)
    layout.ids_RS, layout.position_RS                    # what a model takes
    hidden_RSH.flatten(0, 1).index_select(0, layout.predictor_N)

A piece is a prompt and responses to it: with `shares` all that fit, without one. What all prompts
begin with, such as a system message, is then once in each bin. Pieces are put into bins, longest
first, each into the emptiest; no piece is split. Attention costs the square of a bin, so there are
as many bins as keep the padding, which fills bins up to the longest, below 2 % of the tokens. One
bin has none. Where prompts share a beginning there are as few as keep bins short.

Dimensions: B rows of the batch, T response positions, R bins, S places of a bin, N real response
positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final, cast

import torch
from torch import Tensor

from preceptor_trainer.model.batch import TrainBatch

MOST_PADDING: Final = 0.02
"""Of the places of all bins."""
_SHARED: Final = 1024
"""Tokens up to which responses join a piece, where that is more than twice its prompt, and pieces a
bin with their beginning; beyond, attention costs more than what is shared saves."""
NOBODY: Final = -1
"""The piece of padding, and the row of a prompt's tokens."""
EVERYBODY: Final = -2
"""The piece of what all prompts begin with."""


@dataclass(frozen=True)
class Piece:
    """A prompt and the rows that continue it."""

    prompt: tuple[int, ...]
    rows: tuple[int, ...]
    num_tokens: int


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A batch's tokens, each at one place. The last token of a response predicts nothing, and has
    none."""

    ids_RS: Tensor
    position_RS: Tensor
    """Places in the token's own row; 0 in padding."""
    piece_RS: Tensor
    """Number of the piece; `NOBODY` in padding, `EVERYBODY` in the beginning of a bin."""
    row_RS: Tensor
    """Row of a response's token; `NOBODY` elsewhere."""
    predictor_N: Tensor
    """Place, counted through all bins, that predicts each real response token, row by row."""
    num_tokens: int
    """Places that are no padding."""

    @property
    def num_places(self) -> int:
        """Places of all bins."""
        return self.ids_RS.numel()

    def mask(self, dtype: torch.dtype) -> Tensor:
        """`[R, 1, S, S]` to add to scores: a token sees its prompt and its own row up to itself."""
        size = self.ids_RS.shape[1]
        seen_RSS = self.piece_RS[:, :, None] == self.piece_RS[:, None, :]
        seen_RSS |= self.piece_RS[:, None, :] == EVERYBODY
        of_prompt_RSS = self.row_RS[:, None, :] == NOBODY
        seen_RSS &= of_prompt_RSS | (self.row_RS[:, :, None] == self.row_RS[:, None, :])
        seen_RSS &= torch.ones(size, size, dtype=torch.bool, device=seen_RSS.device).tril()
        mask_RSS = torch.zeros(seen_RSS.shape, dtype=dtype, device=seen_RSS.device)
        return mask_RSS.masked_fill_(~seen_RSS, torch.finfo(dtype).min)[:, None]


def lay_out(batch: TrainBatch, *, shares: bool, bins: int | None = None) -> Layout:
    """Finds a place for every token of the batch.

    Args:
        batch: Rows, padded as everywhere.
        shares: Whether responses to one prompt share its tokens, and prompts their beginning.
        bins: How many; as many as possible where absent.
    """
    pieces = _pieces(batch, shares=shares)
    beginning = _beginning([piece.prompt for piece in pieces]) if shares else ()
    sizes = [piece.num_tokens - len(beginning) for piece in pieces]
    places = spread(sizes, bins) if bins is not None else _bins(sizes, len(beginning))
    return _layout(batch, [[pieces[place] for place in some] for some in places], beginning)


def _beginning(prompts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """What all prompts begin with; at most all but a prompt's last token, which predicts."""
    shortest = min(len(prompt) for prompt in prompts)
    # Tuples between the least and the greatest begin with whatever these two have in common.
    pairs = zip(min(prompts)[: shortest - 1], max(prompts), strict=False)
    return tuple(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _pieces(batch: TrainBatch, *, shares: bool) -> list[Piece]:
    """All rows, those of one prompt together, longest piece first."""
    prompts = _prompts(batch)
    lengths = [len(response) - 1 for response in _responses(batch)]
    together: dict[tuple[int, ...] | int, list[int]] = {}
    for row, prompt in enumerate(prompts):
        together.setdefault(prompt if shares else row, []).append(row)
    pieces: list[Piece] = []
    for rows in together.values():
        prompt, part, size = prompts[rows[0]], list[int](), len(prompts[rows[0]])
        for row in rows:
            if part and size + lengths[row] > max(_SHARED, 2 * len(prompt)):
                pieces.append(Piece(prompt, tuple(part), size))
                part, size = [], len(prompt)
            part.append(row)
            size += lengths[row]
        pieces.append(Piece(prompt, tuple(part), size))
    # Sorting is stable, so the layout depends only on the batch.
    return sorted(pieces, key=lambda piece: piece.num_tokens, reverse=True)


def _prompts(batch: TrainBatch) -> list[tuple[int, ...]]:
    ids: list[list[int]] = cast(Any, batch.input_ids_BL).tolist()
    ends: list[int] = cast(Any, batch.predictor_BT[:, 0]).tolist()
    return [tuple(row[: end + 1]) for row, end in zip(ids, ends, strict=True)]


def _responses(batch: TrainBatch) -> list[list[int]]:
    ids: list[list[int]] = cast(Any, batch.response_ids_BT).tolist()
    lengths: list[int] = cast(Any, batch.response_mask_BT.sum(1)).tolist()
    return [row[:length] for row, length in zip(ids, lengths, strict=True)]


def spread(sizes: Sequence[int], num_bins: int) -> list[list[int]]:
    """Places of `sizes` in each bin: one after another, each into the emptiest."""
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    loads = [0] * num_bins
    for place, size in enumerate(sizes):
        emptiest = loads.index(min(loads))
        bins[emptiest].append(place)
        loads[emptiest] += size
    return bins


def _bins(sizes: Sequence[int], num_shared: int) -> list[list[int]]:
    """Places of `sizes`, which fall, beside the tokens that each bin begins with."""
    total, found = sum(sizes), spread(sizes, 1)
    for num_bins in range(2, total // sizes[0] + 1):
        if num_shared and num_shared + math.ceil(total / (num_bins - 1)) <= _SHARED:
            break
        bins = spread(sizes, num_bins)
        longest = max(sum(sizes[place] for place in places) for places in bins)
        if 1 - total / (num_bins * longest) < MOST_PADDING:
            found = bins
    return found


def _layout(
    batch: TrainBatch, bins: Sequence[Sequence[Piece]], beginning: tuple[int, ...]
) -> Layout:
    skipped = len(beginning)
    size = skipped + max(sum(piece.num_tokens - skipped for piece in some) for some in bins)
    shape = (len(bins), size)
    ids, position = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    owner, row_of = torch.full(shape, NOBODY), torch.full(shape, NOBODY)
    responses = _responses(batch)
    predictors: dict[int, list[int]] = {}
    number = 0
    ids[:, :skipped] = torch.tensor(beginning, dtype=torch.long)
    position[:, :skipped] = torch.arange(skipped)
    owner[:, :skipped] = EVERYBODY
    for r, some in enumerate(bins):
        place = skipped
        for piece in some:
            start, place = place, place + len(piece.prompt) - skipped
            ids[r, start:place] = torch.tensor(piece.prompt[skipped:])
            position[r, start:place] = torch.arange(skipped, len(piece.prompt))
            last = r * size + place - 1
            for row in piece.rows:
                given = responses[row][:-1]
                first, place = place, place + len(given)
                ids[r, first:place] = torch.tensor(given, dtype=torch.long)
                position[r, first:place] = len(piece.prompt) + torch.arange(len(given))
                row_of[r, first:place] = row
                predictors[row] = [last, *range(r * size + first, r * size + place)]
            owner[r, start:place] = number
            number += 1
    device = batch.input_ids_BL.device
    in_order = [place for row in range(batch.num_rollouts) for place in predictors[row]]
    return Layout(
        ids_RS=ids.to(device),
        position_RS=position.to(device),
        piece_RS=owner.to(device),
        row_RS=row_of.to(device),
        predictor_N=torch.tensor(in_order, device=device),
        num_tokens=int((owner != NOBODY).sum()),
    )
