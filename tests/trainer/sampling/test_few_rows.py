"""Linear layers for few rows against torch's own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from preceptor_trainer.sampling.few_rows import MOST_ROWS, FewRowsLinear, take_few_rows


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "shape", [(), (1,), (8, 1), (32,), (32, 1), (4, 3), (0, 1), (MOST_ROWS,), (MOST_ROWS + 1,)]
)
def test_a_layer_computes_what_torch_does(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(40, 24, bias=bias)
    rows = torch.randn(*shape, 40)

    found, wanted = FewRowsLinear(layer)(rows), layer(rows)

    assert found.shape == wanted.shape
    assert found.is_contiguous()  # some models read pairs of numbers as complex ones
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_copy_follows_the_callers_parameters_and_the_callers_layers_stay() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 4, bias=False)))
    shared = {id(p): p for p in model.parameters()}
    taken = copy.deepcopy(model, shared)

    take_few_rows(taken)
    with torch.no_grad():
        model[0].weight.mul_(2)

    assert [type(m) for m in model.modules()].count(nn.Linear) == 2
    assert [type(m) for m in taken.modules()].count(FewRowsLinear) == 2
    assert taken.state_dict().keys() == model.state_dict().keys()
    assert all(a is b for a, b in zip(taken.parameters(), model.parameters(), strict=True))
    rows = torch.randn(20, 8)
    torch.testing.assert_close(taken(rows), model(rows))


def test_a_layer_with_a_hook_keeps_it() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[0].register_forward_hook(lambda layer, given, found: found + 1)

    take_few_rows(model)

    assert [type(layer) for layer in model] == [nn.Linear, FewRowsLinear]
