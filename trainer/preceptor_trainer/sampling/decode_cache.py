"""Attention and its cache for many responses to few contexts, one token per step.

Keys and values of a context are stored once for all of its responses, and read once per step for
all of them: on a CPU, reading a copy for every response took most of a step's time. Those of the
responses are in buffers of full size, so that a step writes one column instead of copying all.
Grouped query heads share their keys.

Dimensions: U contexts, B responses in flight, Q queries, N context positions, T response positions,
H query heads, G key heads, D of a head, C responses to the context that has most.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

MOST_SLOTS = 4
"""Most rows of a padded batched product per response; above it each row is computed separately."""

_WITHOUT_EFFECT = frozenset(
    {"cache_position", "dropout", "is_causal", "output_attentions", "position_ids", "use_cache"}
)
"""Further arguments of attention layers, without effect here: the mask alone restricts attention,
queries and keys are already rotated, and dropout is off outside training."""


class DecodeCache(Cache):
    """Keys and values of all layers: first those of the contexts, then of their responses."""

    def __init__(self, room: int) -> None:
        super().__init__(layers=[])
        self._room = room
        self._contexts: dict[int, list[Tensor]] = {}
        self._buffers: dict[int, list[Tensor]] = {}
        self._filled: dict[int, int] = {}
        self._context_of_B: Tensor | None = None

    @property
    def is_branched(self) -> bool:
        """True after `branch`."""
        return self._context_of_B is not None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Stores `[U, G, N, D]` of contexts; once branched appends to `[B, G, T, D]` of responses.

        Contexts may come in two calls: of one row what all of them begin with, then the rest of
        each.

        Returns:
            Those of the contexts, or those of the responses only.
        """
        states = [key_states, value_states]
        if not self.is_branched:
            if layer_idx in self._contexts:
                states = [
                    torch.cat([beginning.expand(len(state), -1, -1, -1), state], dim=2)
                    for beginning, state in zip(self._contexts[layer_idx], states, strict=True)
                ]
            # these are transposed views, which a product would copy at every step
            self._contexts[layer_idx] = [state.contiguous() for state in states]
            return states[0], states[1]
        start = self._filled.get(layer_idx, 0)
        stop = start + key_states.shape[2]
        if layer_idx not in self._buffers:
            # Allocated at full size: appending by concatenation would copy the whole cache at every
            # step.
            self._buffers[layer_idx] = [
                state.new_empty(*state.shape[:2], self._room, state.shape[3]) for state in states
            ]
        for buffer, state in zip(self._buffers[layer_idx], states, strict=True):
            buffer[:, :, start:stop] = state
        self._filled[layer_idx] = stop
        keys, values = self._buffers[layer_idx]
        return keys[:, :, :stop], values[:, :, :stop]

    def branch(self, context_of_B: Tensor) -> None:
        """Starts the responses: row b continues context `context_of_B[b]`; the indices ascend."""
        self._context_of_B = context_of_B
        self._lay_out()

    def select(self, rows: Tensor) -> None:
        """Keeps these rows, in ascending order, and the contexts that they continue."""
        assert self._context_of_B is not None
        for buffers in self._buffers.values():
            buffers[:] = [buffer[rows] for buffer in buffers]
        context_of_B = self._context_of_B[rows]
        used_U = torch.bincount(context_of_B).nonzero()[:, 0]
        # Contexts are renumbered without gaps; both lists ascend, so a search finds the new number.
        self._context_of_B = torch.searchsorted(used_U, context_of_B)
        # Copied only when a context has no response left.
        if len(used_U) < len(next(iter(self._contexts.values()))[0]):
            self._take_contexts(used_U)
        self._lay_out()

    def context_scores(self, query_BHQD: Tensor, layer_idx: int) -> Tensor:
        """Products `[B, H, Q, N]` of queries with the keys of their contexts."""
        keys_UGND = self._contexts[layer_idx][0]
        return self._by_context(query_BHQD, keys_UGND.mT)

    def context_values(self, weights_BHQN: Tensor, layer_idx: int) -> Tensor:
        """Sums `[B, H, Q, D]` of the contexts' values under attention weights."""
        return self._by_context(weights_BHQN, self._contexts[layer_idx][1])

    def _take_contexts(self, contexts_U: Tensor) -> None:
        for contexts in self._contexts.values():
            contexts[:] = [context[contexts_U] for context in contexts]

    def _lay_out(self) -> None:
        """Gives every row a slot in `[U, C]`, so that a batched product serves each context."""
        assert self._context_of_B is not None
        counts_U = torch.bincount(self._context_of_B)
        num_rows = len(self._context_of_B)
        if len(counts_U) * int(counts_U.max()) > MOST_SLOTS * num_rows:
            # one context has many responses and others few: a copy for each row needs less memory
            self._take_contexts(self._context_of_B)
            self._context_of_B = torch.arange(num_rows, device=counts_U.device)
            counts_U = torch.ones(num_rows, dtype=torch.long, device=counts_U.device)
        starts_U = counts_U.cumsum(0) - counts_U
        numbers_B = torch.arange(num_rows, device=counts_U.device)
        within_B = numbers_B - starts_U[self._context_of_B]
        self._most = int(counts_U.max())
        self._slots_B = self._context_of_B * self._most + within_B
        self._is_full = num_rows == len(counts_U) * self._most

    def _by_context(self, rows_BHQX: Tensor, matrices_UGXY: Tensor) -> Tensor:
        """Multiplies every row by its context's matrix: `[B, H, Q, Y]`."""
        _, heads, num_queries, width = rows_BHQX.shape
        num_contexts, groups = matrices_UGXY.shape[:2]
        if self._is_full:
            slots = rows_BHQX
        else:
            slots = rows_BHQX.new_zeros(num_contexts * self._most, heads, num_queries, width)
            slots[self._slots_B] = rows_BHQX
        # a head's queries of all responses to a context become the rows of one product
        shape = (num_contexts, self._most, groups, heads // groups * num_queries)
        left = slots.reshape(*shape, width).transpose(1, 2).flatten(2, 3).flatten(0, 1)
        product = torch.bmm(left, matrices_UGXY.flatten(0, 1))
        product = product.view(num_contexts, groups, shape[1], shape[3], -1).transpose(1, 2)
        product = product.reshape(num_contexts * self._most, heads, num_queries, -1)
        return product if self._is_full else product[self._slots_B]


def decode_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    decode_cache: DecodeCache,
    sliding_window: int | None = None,
    **options: object,
) -> tuple[Tensor, None]:
    """The attention function of a transformers layer.

    Args:
        module: The layer.
        query: `[B, H, Q, D]`.
        key: `[B, G, T, D]`, where G divides H.
        value: Likewise.
        attention_mask: `[B, 1, Q, N + T]`, true where visible; N is 0 until the cache has branched.
            Then the keys of each row's context come before its own.
        scaling: Factor of the scores.
        decode_cache: The cache with the contexts.
        sliding_window: Most tokens that a token attends to, itself included; all where absent.
        options: Further options of the layer.

    Returns:
        `[B, Q, H, D]` and no weights.

    Raises:
        ValueError: The layer uses an option that is not supported here.
    """
    _refuse_what_is_not_computed(options)
    if sliding_window is not None:
        attention_mask = attention_mask & _window(sliding_window, attention_mask)
    layer: int = module.layer_idx  # pyright: ignore[reportAssignmentType] # set by transformers
    # Scales the queries instead of the scores: a query has D numbers, its scores one per key.
    query = query * scaling
    scores = _by_row(query, key.mT)
    if decode_cache.is_branched:
        scores = torch.cat([decode_cache.context_scores(query, layer), scores], dim=-1)
    # Not minus infinity: a query in the padding sees no key, and the softmax of its row would be
    # NaN, which the next layer would spread to keys and values.
    scores.masked_fill_(~attention_mask, torch.finfo(scores.dtype).min)
    # In float32, as transformers does it; 16 bits would lose the small weights.
    precise = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.softmax(-1, dtype=precise).to(scores.dtype)
    own = weights[..., -key.shape[2] :]
    mixed = _by_row(own, value)
    if decode_cache.is_branched:
        mixed = mixed + decode_cache.context_values(weights[..., : -key.shape[2]], layer)
    return mixed.transpose(1, 2).contiguous(), None


def _window(num_tokens: int, mask_B1QN: Tensor) -> Tensor:
    """`[Q, N]` true for the last `num_tokens` keys of each query, its own included.

    Columns count as positions do: padding is on the left, so no gap is between two real tokens.
    """
    num_queries, num_keys = mask_B1QN.shape[-2:]
    every_QN = torch.ones(num_queries, num_keys, dtype=torch.bool, device=mask_B1QN.device)
    return every_QN.triu(num_keys - num_queries - num_tokens + 1)


def _refuse_what_is_not_computed(options: dict[str, object]) -> None:
    """Refuses unsupported options: ignoring them would give wrong log-probs that look right."""
    for name, value in options.items():
        if value is not None and name not in _WITHOUT_EFFECT:
            raise ValueError(
                f"{name}: the model's attention needs it, but the local sampler does not support it"
            )


def _by_row(rows_BHQX: Tensor, matrices_BGXY: Tensor) -> Tensor:
    """Multiplies every row by its own matrix `[B, H, Q, Y]`, without repeating shared ones."""
    batch, heads, num_queries, width = rows_BHQX.shape
    groups = matrices_BGXY.shape[1]
    left = rows_BHQX.reshape(batch * groups, heads // groups * num_queries, width)
    return torch.bmm(left, matrices_BGXY.flatten(0, 1)).view(batch, heads, num_queries, -1)
