"""Trunks for rows without padding (`packing.py`).

    hidden_NH = packed_trunk_of(model)(model, batch)

`packed_contexts` reads every different prompt once and masks what a token must not see, in one
pass; `packed_rows` packs whole rows and says so by their positions, from which transformers makes
the mask of each of its attentions, windows and flash attention included. Both give the hidden
states of `padded`, up to the order of summation.
"""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.model.packing import Layout, lay_out
from preceptor_trainer.model.trunk import CausalModel, Trunk, check_layers, check_trial

_log = logging.getLogger(__name__)


def packed_contexts(model: CausalModel, batch: TrainBatch) -> Tensor:
    """Prompts once, each followed by all responses to it; for full attention with a dense mask."""
    layout = lay_out(batch, shares=True)
    dtype = model.get_output_embeddings().weight.dtype
    return _hidden(model, layout, attention_mask=layout.mask(dtype))


def packed_rows(model: CausalModel, batch: TrainBatch) -> Tensor:
    """Whole rows one after another; for any attention."""
    # The kernels of flash attention read the lengths of rows from one bin only.
    bins = 1 if _attention(model).startswith("flash") else None
    return _hidden(model, lay_out(batch, shares=False, bins=bins))


def padding_of(trunk: Trunk, model: CausalModel, batch: TrainBatch) -> tuple[int, int]:
    """Places of padding, and all places, of one pass over a batch."""
    if trunk is packed_contexts:
        layout = lay_out(batch, shares=True)
    elif trunk is packed_rows:
        bins = 1 if _attention(model).startswith("flash") else None
        layout = lay_out(batch, shares=False, bins=bins)
    else:
        num_places = batch.input_ids_BL.numel()
        num_tokens = int((batch.predictor_BT.amax(1) + 2).sum())
        return num_places - num_tokens, num_places
    return layout.num_places - layout.num_tokens, layout.num_places


def packed_trunk_of(model: Any) -> Trunk:
    """`packed_contexts`, or `packed_rows` for a model that needs it.

    Args:
        model: A causal language model of transformers, in `eval` mode.

    Raises:
        ValueError: neither gives the hidden states of whole rows.
    """
    try:
        check_layers(model, DynamicLayer)
        check_trial(model, packed_contexts)
    except Exception as error:  # an unknown architecture may raise any error
        _log.warning(
            "%s computes every prompt again for each response: %s", type(model).__name__, error
        )
    else:
        return packed_contexts
    try:
        check_layers(model, DynamicLayer, DynamicSlidingWindowLayer)
        check_trial(model, packed_rows)
    except Exception as error:
        raise ValueError(
            f"packing: {type(model).__name__} cannot compute several rows in one sequence "
            f"({error}); leave packing out"
        ) from error
    return packed_rows


def _hidden(model: CausalModel, layout: Layout, **options: Tensor) -> Tensor:
    hidden_RSH: Tensor = model.get_decoder()(
        input_ids=layout.ids_RS, position_ids=layout.position_RS, use_cache=False, **options
    ).last_hidden_state
    # `index_select` for its backward pass, which adds in a fixed order.
    return hidden_RSH.flatten(0, 1).index_select(0, layout.predictor_N)


def _attention(model: CausalModel) -> str:
    return str(model.get_decoder().config._attn_implementation)
