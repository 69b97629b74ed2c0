"""What an adapter's files say, and the weights that they make of their base."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from preceptor_clients.sdk.adapters import AdapterConfig, merged, tensor_names

A, B = tensor_names("layers.0.q")
CONFIG = AdapterConfig(r=2, lora_alpha=6.0)


def arrays(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_weights_are_the_base_and_the_scaled_product() -> None:
    base = {"layers.0.q.weight": arrays(5, 3), "norm.weight": arrays(3)}
    adapter = {A: arrays(2, 3), B: arrays(5, 2)}

    found = merged(base, adapter, CONFIG)

    wanted = base["layers.0.q.weight"] + 3.0 * (adapter[B] @ adapter[A])
    np.testing.assert_allclose(found["layers.0.q.weight"], wanted, rtol=1e-6)
    assert found["norm.weight"] is base["norm.weight"]
    assert found["layers.0.q.weight"].dtype == np.float32


def test_a_layer_with_inputs_first_gets_the_product_turned() -> None:
    base = {"layers.0.q.weight": np.zeros((3, 5), np.float32)}
    adapter = {A: arrays(2, 3), B: arrays(5, 2)}

    found = merged(base, adapter, CONFIG.model_copy(update={"fan_in_fan_out": True}))

    np.testing.assert_allclose(found["layers.0.q.weight"], 3.0 * (adapter[B] @ adapter[A]).T)


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        ({A: arrays(2, 3)}, "no pairs"),
        ({A: arrays(2, 3), B: arrays(5, 2), "lm_head.weight": arrays(5, 3)}, "no pairs"),
        ({A: arrays(2, 4), B: arrays(5, 2)}, "another shape"),
        (dict(zip(tensor_names("else"), (arrays(2, 3), arrays(5, 2)), strict=True)), "no layer"),
    ],
)
def test_tensors_that_are_not_of_the_base_are_refused(adapter: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        merged({"layers.0.q.weight": arrays(5, 3)}, adapter, CONFIG)


@pytest.mark.parametrize(
    "fields",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"bias": "all"},
        {"rank_pattern": {"q": 4}},
        {"r": 0},
        {"peft_type": "IA3"},
    ],
    ids=str,
)
def test_an_adapter_that_counts_otherwise_is_refused(fields: dict[str, Any]) -> None:
    content = json.dumps({"r": 2, "lora_alpha": 6.0} | fields).encode()

    with pytest.raises(ValueError, match=r"adapter_config\.json"):
        AdapterConfig.parse(content)
