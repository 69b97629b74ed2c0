"""New weights reach layers that share them with others."""

from __future__ import annotations

from typing import Any

import torch

from preceptor_clients.vllm_expert.worker import PolicyWorker


class Packs:
    """Keeps a copy of a layer's weight, as vLLM's CPU build does."""

    def process_weights_after_loading(self, layer: Any) -> None:
        layer.packed = layer.weight.detach().clone()


def layer(weight: torch.nn.Parameter) -> torch.nn.Module:
    made = torch.nn.Linear(1, 1, bias=False)
    made.weight = weight
    made.quant_method = Packs()  # type: ignore[assignment]
    made.quant_method.process_weights_after_loading(made)
    return made


class Worker(PolicyWorker):
    """A worker that reloads its embedding in place, and prepares nothing."""

    def __init__(self) -> None:
        tied, alone = (torch.nn.Parameter(torch.zeros(3, 2)) for _ in range(2))
        self.model = torch.nn.ModuleList([layer(tied), layer(tied), layer(alone)])

    def get_model(self) -> torch.nn.Module:
        return self.model

    def reload_weights(self, weights_path: str) -> None:
        with torch.no_grad():
            self.model[0].weight.fill_(float(weights_path))


def test_a_tied_head_is_prepared_anew() -> None:
    worker = Worker()

    worker.take_weights("7")

    embedding, head, alone = worker.model
    assert (embedding.packed == 7).all()
    assert (head.packed == 7).all()
    assert (alone.packed == 0).all()
