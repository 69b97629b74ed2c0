"""From a batch to the hidden states that predict its response tokens.

    hidden_NH = trunk_of(model)(model, batch)

Rollouts of a group continue one prompt. `shared_contexts` computes every different prompt once, and
all its responses attend to its keys and values; gradients flow back through them. The result equals
that of `padded`, up to the order of summation, with a fraction of the tokens: a group of 8
responses of 25 tokens to a prompt of 80 has 280 tokens instead of 840.

Dimensions: B rows, U different prompts, P positions of the longest prompt, T response positions, N
real ones, H of a hidden state.
"""

from __future__ import annotations

import logging
from typing import Any, Final, Protocol, cast

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from preceptor_trainer.model.batch import TrainBatch, TrainRollout, collate

_log = logging.getLogger(__name__)
_TRIAL_TOLERANCE: Final = {torch.float32: 1e-3, torch.float64: 1e-3}
"""Tolerance relative to the largest hidden value. In 16 bits two orders of summation differ much
more than in 32 bits, but much less than the results of a model that mixes its rows."""


class CausalModel(Protocol):
    """The part of a Hugging Face causal language model that the trainer uses."""

    def get_decoder(self) -> Any:
        """A module that maps `input_ids` to an object with `last_hidden_state` [B, L, H]."""
        ...

    def get_output_embeddings(self) -> Any:
        """The module from hidden states [..., H] to logits [..., V]."""
        ...


class Trunk(Protocol):
    """Computes a model without its head on a batch."""

    def __call__(self, model: CausalModel, batch: TrainBatch) -> Tensor:
        """`[N, H]`: the hidden states that predict each real response token, row by row."""
        ...


def padded(model: CausalModel, batch: TrainBatch) -> Tensor:
    """Computes every row completely, with its prompt. For any causal model.

    No attention mask is passed: rows are padded on the right, to which a causal model does not
    attend, and attention without a mask is faster.
    """
    hidden_BLH: Tensor = model.get_decoder()(
        input_ids=batch.input_ids_BL, use_cache=False
    ).last_hidden_state
    # Row by row, as masking with `response_mask_BT` orders them; `shared_contexts` and the head use
    # the same order.
    row_N, position_N = batch.response_mask_BT.nonzero(as_tuple=True)
    return hidden_BLH[row_N, batch.predictor_BT[row_N, position_N]]


def shared_contexts(model: CausalModel, batch: TrainBatch) -> Tensor:
    """Computes every different prompt once, then all responses. For models tested by `trunk_of`."""
    prompt_lengths_B = batch.predictor_BT[:, 0] + 1
    places_P = torch.arange(int(prompt_lengths_B.max()), device=prompt_lengths_B.device)
    inside_BP = places_P < prompt_lengths_B[:, None]
    # The first P places of a row with a shorter prompt have response tokens too. They are masked by
    # -1, which is not an id, so that equal prompts with different responses are equal.
    prompts_BP = batch.input_ids_BL[:, : len(places_P)].masked_fill(~inside_BP, -1)
    # By content and not by group number, because two groups may have the same prompt. The contexts
    # are sorted, so their order depends only on the batch.
    found: tuple[Tensor, Tensor] = cast(Any, prompts_BP).unique(dim=0, return_inverse=True)
    contexts_UP, context_of_B = found
    # No prompt is shared, and two passes cost more than one.
    if len(contexts_UP) == batch.num_rollouts:
        return padded(model, batch)

    decoder = model.get_decoder()
    cache = DynamicCache(config=decoder.config)
    # Prompts are padded on the right, and need no mask: see `padded`.
    hidden_UPH: Tensor = decoder(
        # -1 is not a row of the embedding; its replacement is never attended to.
        input_ids=contexts_UP.clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    ends_U = (contexts_UP >= 0).sum(1) - 1
    last_UH = hidden_UPH[torch.arange(len(ends_U), device=ends_U.device), ends_U]
    # index_select for its backward pass: see `_repeat`.
    hidden_BTH = last_UH.index_select(0, context_of_B)[:, None]
    inputs_BT = batch.response_ids_BT[:, :-1]  # the last token predicts nothing
    if inputs_BT.shape[1]:
        _repeat(cache, context_of_B)
        steps_T = torch.arange(inputs_BT.shape[1], device=inputs_BT.device)
        responses_BTH: Tensor = decoder(
            input_ids=inputs_BT,
            # A mask is needed here: the padding of a prompt is before the response, and causal
            # attention would include it. Positions continue from the end of the own prompt, not of
            # the longest one, so that rotations equal those of the unpadded row.
            attention_mask=_mask(inside_BP, len(steps_T), hidden_BTH.dtype),
            position_ids=prompt_lengths_B[:, None] + steps_T,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        hidden_BTH = torch.cat([hidden_BTH, responses_BTH], dim=1)
    return hidden_BTH[batch.response_mask_BT]


def _repeat(cache: DynamicCache, context_of_B: Tensor) -> None:
    """Gives every row the keys and values of its context.

    It uses `index_select`, whose backward pass adds in a fixed order. On a CPU the backward pass of
    indexing adds from several threads, so that equal seeds would not give equal weights.
    """
    layers: Any = cache.layers
    for layer in layers:
        layer.keys = layer.keys.index_select(0, context_of_B)
        layer.values = layer.values.index_select(0, context_of_B)


def _mask(inside_BP: Tensor, num_steps: int, dtype: torch.dtype) -> Tensor:
    """`[B, 1, T, P + T]` to add to scores: visible are the row's prompt and its response so far."""
    seen_TT = torch.ones(num_steps, num_steps, dtype=torch.bool, device=inside_BP.device).tril()
    seen = torch.cat(
        [
            inside_BP[:, None].expand(-1, num_steps, -1),
            seen_TT.expand(len(inside_BP), -1, -1),
        ],
        dim=-1,
    )
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


def trunk_of(model: Any) -> Trunk:
    """`shared_contexts` if a trial gives the same hidden states, else `padded`.

    Args:
        model: A causal language model of transformers, in `eval` mode.
    """
    try:
        check_layers(model, DynamicLayer)
        check_trial(model, shared_contexts)
    except Exception as error:  # an unknown architecture may raise any error
        _log.warning(
            "%s computes every prompt again for each response: %s", type(model).__name__, error
        )
        return padded
    return shared_contexts


def check_layers(model: Any, *supported: type) -> None:
    """Refuses layers that the short trial would not detect: windows, and states of a whole row."""
    kinds = {type(layer) for layer in DynamicCache(config=model.get_decoder().config).layers}
    if not kinds or not kinds <= set(supported):
        raise ValueError(
            f"its layers have unsupported caches {sorted(kind.__name__ for kind in kinds)}"
        )


@torch.no_grad()
def check_trial(model: Any, trunk: Trunk) -> None:
    """Refuses a trunk whose hidden states are not those of whole rows."""
    num_ids = model.get_output_embeddings().weight.shape[0]
    ids = [i * 7 % num_ids for i in range(24)]
    shapes = ((0, 9, 5), (0, 9, 1), (4, 16, 3), (4, 16, 8))
    batch = collate(
        [
            TrainRollout(
                rollout_id=f"trial-{row}",
                group=first,
                prompt_ids=ids[first:last],
                response_ids=ids[row : row + length],
            )
            for row, (first, last, length) in enumerate(shapes)
        ]
    ).to(next(model.parameters()).device)
    wanted, found = padded(model, batch).float(), trunk(model, batch).float()
    dtype = next(model.parameters()).dtype
    allowed = _TRIAL_TOLERANCE.get(dtype, 2**-4) * max(1.0, wanted.abs().max().item())
    gap = (wanted - found).abs().max().item()
    if not gap <= allowed:
        raise ValueError(f"its hidden states would change by {gap:.1e}")
