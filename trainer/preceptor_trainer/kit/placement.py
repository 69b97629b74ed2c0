"""Device and data type of a run's tensors, decided in one place.

    place = placement(device="auto", dtype="float32")

Weights and the optimiser's state are float32. With bfloat16 the passes of the update run under
autocast, and the copy that samples is bfloat16: log-probs and losses stay float32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Literal, cast

import torch

Precision = Literal["float32", "bfloat16"]
_DTYPES: Final[dict[Precision, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where tensors are, and in which type they are computed."""

    device: torch.device
    dtype: torch.dtype = torch.float32

    def computing(self) -> AbstractContextManager[None]:
        """The context of a forward pass over float32 weights."""
        is_lower = self.dtype != torch.float32
        context = torch.autocast(self.device.type, dtype=self.dtype, enabled=is_lower)
        return cast("AbstractContextManager[None]", context)


CPU: Final = Placement(device=torch.device("cpu"))


def placement(*, device: str = "auto", dtype: Precision = "float32") -> Placement:
    """The placement of these settings; `auto` is the GPU where torch sees one, else the CPU.

    Raises:
        ValueError: there is no such device or data type.
    """
    if dtype not in _DTYPES:
        raise ValueError(f"dtype: {dtype!r} is not one of {sorted(_DTYPES)}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device: {device!r} is not `auto` or a device of torch") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: {device!r}, but torch sees no GPU; use `auto` or `cpu`")
    return Placement(device=found, dtype=_DTYPES[dtype])
