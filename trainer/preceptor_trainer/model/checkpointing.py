"""Activation checkpointing: a layer's activations are computed again in the backward pass.

    trunk = checkpointed(model, trunk)

Only what enters each layer is kept, which is about a tenth, for one more forward pass of the
layers. Source: Chen et al., arXiv 1604.06174; the layers are those of transformers.

A layer that is computed twice must not write keys and values twice, so that trunks with a cache are
replaced by `padded`; packed ones have none.
"""

from __future__ import annotations

from typing import Any

from transformers.modeling_layers import GradientCheckpointingLayer

from preceptor_trainer.model.trunk import Trunk, padded, shared_contexts


def checkpointed(model: Any, trunk: Trunk) -> Trunk:
    """Makes the layers of a model keep their inputs alone, in passes with gradient.

    Args:
        model: A causal language model of transformers, changed in place; it stays in `eval` mode.
        trunk: The trunk that the model would have.

    Returns:
        The trunk that it has now.

    Raises:
        ValueError: the model's layers cannot do it.
    """
    layers = [one for one in model.modules() if isinstance(one, GradientCheckpointingLayer)]
    if not layers or not model.supports_gradient_checkpointing:
        raise ValueError(
            f"checkpointing: {type(model).__name__} has no layers whose activations can be "
            "computed again; leave checkpointing out"
        )
    # Older releases know it by its earlier name alone.
    now = getattr(model, "activation_checkpointing_enable", None)
    (now or model.gradient_checkpointing_enable)({"use_reentrant": False})
    for layer in layers:
        # The flag of the layer alone: its modules, such as dropout, stay as they are.
        layer.training = True
    return padded if trunk is shared_contexts else trunk
