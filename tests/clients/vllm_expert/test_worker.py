"""New weights reach layers that share them with others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from preceptor_clients.vllm_expert import fetched_weights
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

    local_rank = 0

    def __init__(self) -> None:
        tied, alone = (torch.nn.Parameter(torch.zeros(3, 2)) for _ in range(2))
        self.model = torch.nn.ModuleList([layer(tied), layer(tied), layer(alone)])

    def get_model(self) -> torch.nn.Module:
        return self.model

    def reload_weights(self, weights_path: str) -> None:
        with torch.no_grad():
            self.model[0].weight.fill_(float(Path(weights_path).name.rpartition("-")[2]))


def test_a_tied_head_is_prepared_anew() -> None:
    worker = Worker()

    worker.take_weights("7")

    embedding, head, alone = worker.model
    assert (embedding.packed == 7).all()
    assert (head.packed == 7).all()
    assert (alone.packed == 0).all()


def test_one_of_a_machines_workers_fetches_what_all_of_them_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetched_weights, "_MEMORY", tmp_path)
    asked: list[str] = []

    def fetch(url: str, name: str) -> None:
        asked.append(url)
        (tmp_path / f"preceptor-fetched-{name}").mkdir()

    monkeypatch.setattr("preceptor_clients.vllm_expert.worker.fetch", fetch)
    first, second = Worker(), Worker()
    second.local_rank = 1

    for worker in (first, second):
        worker.fetch_weights("http://trainer/secret", "7")
    for worker in (first, second):
        worker.take_fetched("7")
    for worker in (first, second):
        worker.drop_fetched("7")

    assert asked == ["http://trainer/secret"]
    assert all((worker.model[1].packed == 7).all() for worker in (first, second))
    assert not [*tmp_path.iterdir()]
