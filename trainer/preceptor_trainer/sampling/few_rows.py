"""Linear layers for few rows at a time, on a CPU.

    take_few_rows(model)      # a copy that shares its parameters

Decoding multiplies a large matrix W by few rows x. For 16 to 48 rows of float32, x W^T takes MKL
1.0 to 1.9 times as long as W x^T, both as they lie in memory; for 8 rows, and from about 64 on, it
is not slower (`benchmarks/few_rows.py`). The result is transposed back, because some models need
its rows in one piece. Sums differ in their last bits.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

FEWEST_ROWS, MOST_ROWS = 9, 48


class FewRowsLinear(nn.Linear):
    """A linear layer with the parameters of another one."""

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, input: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        num_rows = input.numel() // self.in_features
        if not FEWEST_ROWS <= num_rows <= MOST_ROWS:
            return super().forward(input)
        product = (self.weight @ input.reshape(num_rows, self.in_features).T).T
        bias = cast("Tensor | None", self.bias)
        if bias is not None:
            product = product + bias
        return product.contiguous().view(*input.shape[:-1], self.out_features)


def take_few_rows(model: nn.Module) -> None:
    """Replaces a model's linear layers in place; subclasses and layers with hooks stay."""
    for module in [*model.modules()]:
        for name, child in module.named_children():
            if type(child) is nn.Linear and not _has_hooks(child):
                setattr(module, name, FewRowsLinear(child))


def _has_hooks(layer: nn.Module) -> bool:
    # Such as those that bring weights from elsewhere, or make them of other parameters.
    found: Any = layer
    return bool(found._forward_hooks or found._forward_pre_hooks)
