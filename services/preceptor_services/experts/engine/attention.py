"""Attention over packed sequences; it replaces the attention of a transformers model.

On a CPU it works block by block (`blocks.py`), on a GPU segment by segment. A segment attends to
itself causally and to all tokens of the segments above it, with torch's fused attention on
concatenated keys and values. Where a mask is needed, queries are processed in blocks of
`_QUERY_BLOCK` rows, so that memory stays linear in the tokens.

transformers passes keyword arguments of a forward call to its attention function
(`AttentionInterface`); `packed` is passed in this way.

Dimensions: N packed tokens, G query heads, M key heads, D of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from preceptor_services.experts.engine.blocks import Block, attend_blocks
from preceptor_services.experts.engine.packing import Packed, Segment

ATTENTION: Final = "preceptor_packed"
_QUERY_BLOCK: Final = 512
_REFUSED: Final = ("softcap", "s_aux")


class Unpackable(ValueError):
    """The packed attention does not support this model's attention."""


def packed_attention(
    module: Any,
    query_1GND: Tensor,
    key_1MND: Tensor,
    value_1MND: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: Packed | None = None,
    blocks: Sequence[Block] | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The attention function of a transformers layer.

    Args:
        module: The layer.
        query_1GND: `[1, G, N, D]`, G query heads over N packed tokens.
        key_1MND: `[1, M, N, D]`, where M divides G.
        value_1MND: Likewise.
        attention_mask: None; the segments define what a token may attend to.
        packed: The layout of the N tokens.
        blocks: The blocks of the layout, for processing block by block.
        scaling: Factor of the scores; 1 / sqrt(D) where absent.
        sliding_window: Most tokens that a token attends to, itself included; all where absent.
        options: Further options of the layer.

    Returns:
        `[1, N, G, D]` and no weights.

    Raises:
        Unpackable: The layer uses an option that is not supported here.
    """
    if packed is None or attention_mask is not None:
        raise Unpackable("its layers do not pass the layout to their attention")
    for name in _REFUSED:
        if options.get(name) is not None:
            raise Unpackable(f"its attention has {name}")
    if blocks is not None:
        out_NGD = attend_blocks(
            query_1GND, key_1MND, value_1MND, blocks, scaling=scaling, window=sliding_window
        )
    else:
        out_NGD = _attend_segments(
            query_1GND, key_1MND, value_1MND, packed, scaling, sliding_window
        )
    return out_NGD[None], None


def _attend_segments(
    query_1GND: Tensor,
    key_1MND: Tensor,
    value_1MND: Tensor,
    packed: Packed,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    out_NGD = query_1GND.new_empty((query_1GND.shape[2], query_1GND.shape[1], value_1MND.shape[-1]))
    for segment in packed.segments:
        key, value = _seen(key_1MND, segment), _seen(value_1MND, segment)
        # A first segment needs no mask, and the fused kernel itself is linear in memory.
        whole = not segment.above and (window or packed.longest) >= packed.longest
        # A mask has queries times keys elements. Blocks of queries bound it to a constant times the
        # keys.
        step = segment.stop - segment.start if whole else _QUERY_BLOCK
        for start in range(segment.start, segment.stop, step):
            stop = min(start + step, segment.stop)
            num_seen = segment.num_above + stop - segment.start
            attended = _attend(
                query_1GND[:, :, start:stop],
                key[:, :, :num_seen],
                value[:, :, :num_seen],
                scaling,
                window or num_seen,
            )
            out_NGD[start:stop] = attended[0].transpose(0, 1)
    return out_NGD


def _seen(states_1MND: Tensor, segment: Segment) -> Tensor:
    """States of the segments above and of this one, in the order of their sequence."""
    own = states_1MND[:, :, segment.start : segment.stop]
    if not segment.above:
        return own
    # Concatenated, because the fused kernels need one tensor of keys. A mask over all packed keys
    # would need memory quadratic in their number.
    return torch.cat([*(states_1MND[:, :, a:b] for a, b in segment.above), own], dim=2)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int
) -> Tensor:
    """Attention of the last queries of a sequence: each attends to all tokens up to itself."""
    num_queries, num_keys = query.shape[2], key.shape[2]
    whole = num_queries == num_keys <= window
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=None if whole else _mask(num_queries, num_keys, window, query),
        # Without a mask tensor where possible: the kernel then skips hidden keys instead of
        # computing and discarding them.
        is_causal=whole,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _mask(num_queries: int, num_keys: int, window: int, like: Tensor) -> Tensor:
    """The mask as numbers to add to the scores; a boolean mask would be converted in every
    layer."""
    before = num_keys - num_queries
    hidden = torch.full(
        (num_queries, num_keys), float("-inf"), dtype=like.dtype, device=like.device
    )
    later = hidden.triu(before + 1)
    return later if num_keys <= window else later + hidden.tril(before - window)


cast("Any", AttentionInterface).register(ATTENTION, packed_attention)
