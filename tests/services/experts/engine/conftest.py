"""The rule of the marker `gpu`."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _only_with_an_accelerator(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("marked `gpu`, and torch sees no accelerator")
