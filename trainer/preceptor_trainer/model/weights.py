"""A model's weights by name, each once, as they are published and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters. Tied ones are there once, as the file format wants them."""
    return {name: p.detach().clone().contiguous() for name, p in model.named_parameters()}


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be divided between processes, put together; all of them must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies weights into a model; those that are tied in it may be given once.

    Raises:
        ValueError: a weight is missing or unknown.
    """
    mismatch: Any = model.load_state_dict(dict(weights), strict=False)
    missing: list[str] = mismatch.missing_keys
    unexpected: list[str] = mismatch.unexpected_keys
    parameters = dict(model.named_parameters(remove_duplicate=False))
    given = {id(parameters[name]) for name in weights if name in parameters}
    absent = [n for n, p in parameters.items() if n in missing and id(p) not in given]
    if absent or unexpected:
        raise ValueError(f"weights: missing {absent[:3]}, unexpected {unexpected[:3]}")


@torch.no_grad()
def take_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Makes `weights` those of a model that is never trained.

    Where data type and device agree they are shared, not copied: one copy less in memory. Whoever
    shares parameters with the model sees the new ones too. What the model had shared before stays
    as it was.

    Raises:
        ValueError: a weight is missing or unknown.
        RuntimeError: a weight has another shape.
    """
    own: dict[str, Tensor] = dict(model.named_parameters())
    if own.keys() != weights.keys() or any(
        own[name].shape != given.shape for name, given in weights.items()
    ):
        load_weights(model, weights)
        return
    for name, given in weights.items():
        mine = own[name]
        mine.data = given.to(device=mine.device, dtype=mine.dtype)
