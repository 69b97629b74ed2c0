"""Attention with shared contexts against ordinary attention over each row's whole past.

Dimensions: U contexts, B rows, Q new tokens, N context positions, M of a row's past, H query heads,
G key heads, D of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from preceptor_trainer.sampling.decode_cache import MOST_SLOTS, DecodeCache, decode_attention

HEADS, GROUPS, DIM, LAYERS = 6, 2, 5, 2
UNEVEN = [9] + [1] * 12


class Layer(nn.Module):
    """What attention asks of its layer."""

    def __init__(self, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx


class Rows:
    """Random responses in flight, each beside its own keys and values from the first token on."""

    def __init__(self, counts: Sequence[int]) -> None:
        self.draw = torch.Generator().manual_seed(0)
        self.cache = DecodeCache(room=8)
        lengths_U = torch.tensor([1 + 3 * u % 5 for u in range(len(counts))])
        longest = int(lengths_U.max())
        # until the cache branches, a row is a context; padding is on the left
        self.visible_BM = torch.arange(longest) >= longest - lengths_U[:, None]
        empty = torch.empty(2, GROUPS, 0, DIM)
        self.pasts = [[empty] * LAYERS for _ in counts]
        self.of_contexts = self._attend(longest)
        context_of_B = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        self.cache.branch(context_of_B)
        self._take(context_of_B.tolist())

    def step(self, num_new: int = 1) -> list[tuple[Tensor, Tensor]]:
        """Every row reads new tokens: `[H, Q, D]` of layers and rows as found and as expected."""
        self.visible_BM = nn.functional.pad(self.visible_BM, (0, num_new), value=True)
        return self._attend(num_new)

    def keep(self, rows: Sequence[int]) -> None:
        """Lets go of all others."""
        self.cache.select(torch.tensor(rows))
        self._take(rows)

    def _take(self, rows: Sequence[int]) -> None:
        self.pasts = [list(self.pasts[row]) for row in rows]
        self.visible_BM = self.visible_BM[torch.tensor(rows)]

    def _attend(self, num_new: int) -> list[tuple[Tensor, Tensor]]:
        return [pair for index in range(LAYERS) for pair in self._layer(index, num_new)]

    def _layer(self, index: int, num_new: int) -> Iterator[tuple[Tensor, Tensor]]:
        num_rows, num_all = self.visible_BM.shape
        query_BHQD = self._random(num_rows, HEADS, num_new)
        states = self._random(2, num_rows, GROUPS, num_new)
        causal_QM = torch.ones(num_new, num_all).tril(num_all - num_new).bool()
        mask = (causal_QM & self.visible_BM[:, None, :])[:, None]
        keys, values = self.cache.update(states[0], states[1], index)
        found_BQHD, _ = decode_attention(
            Layer(index), query_BHQD, keys, values, mask, DIM**-0.5, self.cache
        )
        for row, visible_M in enumerate(self.visible_BM):
            past = self.pasts[row][index] = torch.cat([self.pasts[row][index], states[:, row]], 2)
            real_Q = visible_M[-num_new:]
            yield (
                found_BQHD[row, real_Q].transpose(0, 1),
                ordinary_attention(query_BHQD[row, :, real_Q], *past[:, :, visible_M]),
            )

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, DIM, generator=self.draw, dtype=torch.float64)


def ordinary_attention(query_HQD: Tensor, keys_GMD: Tensor, values_GMD: Tensor) -> Tensor:
    """Attention of the last Q of M tokens: `[H, Q, D]`."""
    num_new, num_tokens = query_HQD.shape[1], keys_GMD.shape[1]
    causal_QM = torch.ones(num_new, num_tokens).tril(num_tokens - num_new).bool()
    shared = HEADS // GROUPS
    return scaled_dot_product_attention(
        query_HQD,
        keys_GMD.repeat_interleave(shared, dim=0),
        values_GMD.repeat_interleave(shared, dim=0),
        attn_mask=causal_QM,
    )


def assert_same(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for found, expected in pairs:
        assert torch.allclose(found, expected, atol=1e-12)


def test_a_context_attends_to_itself_alone_and_not_to_its_padding() -> None:
    rows = Rows([1] * 5)

    assert not rows.visible_BM.all(), "or nothing is padded"
    assert_same(rows.of_contexts)


@pytest.mark.parametrize("counts", [[1], [3, 3, 3], [5, 1, 2], [1, 1, 1, 1], [1, 12], UNEVEN])
def test_a_row_attends_to_its_context_and_then_to_its_own(counts: list[int]) -> None:
    rows = Rows(counts)

    for _ in range(3):
        assert_same(rows.step())


@pytest.mark.parametrize("counts", [[3, 3], [5, 1, 2], UNEVEN])
def test_several_new_tokens_see_no_later_ones(counts: list[int]) -> None:
    rows = Rows(counts)

    assert_same(rows.step(3))
    assert_same(rows.step(2))


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param([0, 2, 4, 5, 8], id="some of each context"),
        pytest.param([3, 4, 6], id="the first context gone"),
        pytest.param([0, 1, 2, 5, 6, 7, 8], id="one between gone"),
        pytest.param([1, 3, 4], id="the last gone"),
        pytest.param([7], id="one row left"),
        pytest.param(list(range(9)), id="all stay"),
    ],
)
@pytest.mark.parametrize("steps_before", [0, 2])
def test_rows_that_go_change_nothing_for_those_that_stay(
    kept: list[int], steps_before: int
) -> None:
    rows = Rows([3, 2, 4])
    for _ in range(steps_before):
        rows.step()

    rows.keep(kept)

    assert_same(rows.step())
    assert_same(rows.step())


def test_rows_go_again_and_again() -> None:
    rows = Rows([4, 1, 3, 2])
    for kept in ([0, 1, 3, 5, 6, 7, 8, 9], [1, 3, 4, 6], [0, 3], [1]):
        rows.step()
        rows.keep(kept)
        assert_same(rows.step())


def test_counts_that_are_uneven_at_the_start_or_later_change_nothing() -> None:
    become = [12, 1, 1, 1, 1, 1]
    for counts in (UNEVEN, become):
        assert len(counts) * max(counts) > MOST_SLOTS * sum(counts), "or nothing is copied"
    uneven, rows = Rows(UNEVEN), Rows([12] * 6)
    rows.step()

    uneven.keep([0, 3, 8, 9, 20])
    rows.keep([*range(12), 12, 24, 36, 48, 60])

    assert_same(uneven.step())
    assert_same(rows.step())
    rows.keep([3, 12, 16])
    assert_same(rows.step())


def _attend_with(**options: object) -> Tensor:
    """Three rows with four tokens each."""
    states = torch.randn(2, 3, GROUPS, 4, DIM, generator=torch.Generator().manual_seed(1))
    query = torch.randn(3, HEADS, 4, DIM, generator=torch.Generator().manual_seed(2))
    mask = torch.ones(3, 1, 4, 4).tril().bool()
    mixed, _ = decode_attention(
        Layer(0),
        query,
        *states,
        mask,
        DIM**-0.5,
        DecodeCache(room=1),
        **options,  # type: ignore[arg-type]
    )
    return mixed


@pytest.mark.parametrize(
    "options",
    [
        {"softcap": 50.0},
        {"s_aux": torch.zeros(HEADS)},
        {"position_bias": torch.zeros(1, HEADS, 4, 4)},
    ],
)
def test_attention_that_is_not_computed_is_refused(options: dict[str, object]) -> None:
    (name,) = options

    with pytest.raises(ValueError, match=f"^{name}: "):
        _attend_with(**options)


def test_what_changes_nothing_is_let_through() -> None:
    layers_say = {"dropout": 0.0, "position_ids": torch.arange(4), "use_cache": True}
    unset = {"sliding_window": None, "softcap": None, "s_aux": None}

    assert torch.equal(_attend_with(**layers_say, **unset), _attend_with())


def test_a_window_that_holds_all_tokens_is_none() -> None:
    assert torch.equal(_attend_with(sliding_window=4), _attend_with())
