"""New weights reach layers that share them with others."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from preceptor_clients.vllm_expert import fetched_weights
from preceptor_clients.vllm_expert.broadcast_weights import TIMEOUT
from preceptor_clients.vllm_expert.worker import PolicyWorker
from preceptor_trainer.sampling.weight_group import WeightGroup, outline_of


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

    def reload_weights(self, weights_path: str = "", weights_iterator: Any = ()) -> None:
        with torch.no_grad():
            for name, weight in weights_iterator:
                getattr(self.model[0], name).copy_(weight)
            if not weights_path:
                return
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


def test_a_tied_head_is_prepared_anew_of_what_is_broadcast() -> None:
    tensors = {"weight": torch.full((3, 2), 7.0)}
    with grouped() as (group, worker):
        loading = Thread(target=worker.take_broadcast, args=(outline_of(tensors),))
        loading.start()
        group.send(tensors)
        loading.join()

    assert all((worker.model[number].packed == 7).all() for number in (0, 1))


def test_a_worker_that_cannot_load_does_not_let_the_trainer_wait() -> None:
    tensors = {name: torch.zeros(8 << 20) for name in ("unknown", "more", "most")}
    failures: list[BaseException] = []

    with grouped() as (group, worker):

        def send() -> None:
            try:
                group.send(tensors)
            except RuntimeError as error:
                failures.append(error)

        sending = Thread(target=send)
        sending.start()
        with pytest.raises(AttributeError, match="unknown"):
            worker.take_broadcast(outline_of(tensors))
        sending.join(TIMEOUT.total_seconds() / 2)

        assert not sending.is_alive()
        assert failures
        with pytest.raises(RuntimeError, match="has not joined"):
            worker.take_broadcast(outline_of(tensors))


@contextmanager
def grouped() -> Generator[tuple[WeightGroup, Worker]]:
    """A trainer's end and a worker that has met it."""
    group, worker = WeightGroup("127.0.0.1", size=2), Worker()
    meeting = Thread(target=group.meet)
    meeting.start()
    worker.join_weight_group("127.0.0.1", group.port, 2)
    meeting.join()
    yield group, worker


def test_more_workers_than_the_trainer_knows_of_are_refused() -> None:
    with grouped() as (group, _), pytest.raises(RuntimeError, match="expects 1 workers, and more"):
        Worker().join_weight_group("127.0.0.1", group.port, 2)
