"""Publishing takes its time in other threads than the event loop's."""

from __future__ import annotations

import asyncio
import errno
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from preceptor_clients.contract.errors import ServiceUnavailable
from preceptor_clients.contract.schemas import (
    Capabilities,
    ServiceInfo,
    ServiceLimits,
    Services,
    ServiceStatus,
    WeightManifest,
)
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.sdk.adapters import ADAPTER_FILE, FIRST_ADAPTER
from preceptor_trainer.collect.student import Student
from preceptor_trainer.learner.adapter_files import base_folder
from preceptor_trainer.learner.learner import Learner, OptimiserConfig
from preceptor_trainer.learner.lora import Lora, add_adapter
from preceptor_trainer.learner.policy import WeightFolder
from preceptor_trainer.learner.rounding import Rounding
from preceptor_trainer.model.shape import Shape, shape_of
from preceptor_trainer.model.weights import take_weights
from preceptor_trainer.run.adapter_publishes import adapters_suffice
from preceptor_trainer.run.checkpoint import checkpoints, weights_of
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.run.journal import Journal
from preceptor_trainer.run.needs.disk_plan import disk_plan
from preceptor_trainer.run.publishing import Publisher
from preceptor_trainer.run.schedules import Deterministic
from preceptor_trainer.run.standing import BEST_FILE, Lineage, remember
from preceptor_trainer.sampling.dialect import UnfitServer
from preceptor_trainer.sampling.in_process import InProcessSampler

from ...models.tiny import tiny_model


class Recording:
    """A gateway that keeps what was registered."""

    def __init__(self) -> None:
        self.manifests: list[WeightManifest] = []

    async def register_weights(self, manifest: WeightManifest) -> None:
        self.manifests.append(manifest)


def publisher_of(root: Path, *, scratch: Path | None = None) -> tuple[Publisher, Recording]:
    gateway = Recording()
    folder = WeightFolder(root / "weights", "quickstart", "0" * 64, scratch=scratch)
    publisher = Publisher(folder, root, cast(GatewayClient, gateway))
    publisher.lineage = "l0"
    return publisher, gateway


def settings(**fields: Any) -> RunConfig:
    """The part of a configuration that publishing reads."""
    shared = {"steps": 12, "checkpoint_every": 1, "keep": 2, "experts": (), "evaluation": None}
    shared |= {"schedule": Deterministic(), "sampler": None, "publish": "float32", "lora": None}
    shared |= {"scratch": None}
    values = shared | {"optimiser": OptimiserConfig(lr=1.0)} | fields
    return cast(RunConfig, SimpleNamespace(**values))


READERS: dict[str, dict[str, Any]] = {
    "experts": {"experts": ("teacher",)},
    "sampler": {"sampler": "a service"},
    "sent": {"sampler": SimpleNamespace(weights="sent")},
    "broadcast": {"sampler": SimpleNamespace(weights="broadcast")},
    "none": {},
}
"""Who loads versions beside the trainer."""


class Wide(nn.Module):
    """16M numbers, and nothing that computes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(16, 1024, 1024))


async def test_the_event_loops_thread_has_little_of_the_work(tmp_path: Path) -> None:
    publisher, _ = publisher_of(tmp_path)
    learner = Learner(Wide(), OptimiserConfig(lr=1.0))
    config = settings()
    await publisher._publish(learner, 0, checkpoint=True)

    own, all_threads = time.thread_time(), time.process_time()
    await publisher.publish(1, learner, config)
    await publisher.checkpoint_if_due(1, learner, config)
    own, all_threads = time.thread_time() - own, time.process_time() - all_threads

    assert own < 0.2 * all_threads


async def test_a_sampler_takes_new_weights_in_another_thread(tmp_path: Path) -> None:
    publisher, _ = publisher_of(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tiny_model("qwen3", tmp_path / "model"))
    sampler = InProcessSampler(model, end_ids={0}, pad_id=0)
    await publisher._publish(Learner(model, OptimiserConfig(lr=1.0)), 0, checkpoint=False)
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0)

    heart = asyncio.create_task(beat())
    await sampler.load(publisher.published)
    heart.cancel()

    assert sampler.version == "quickstart/l0/0"
    assert beats > 1


class Held:
    """Holds the writing of files until it is let go."""

    def __init__(self, publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
        self.release, self._write = threading.Event(), publisher._folder.write
        self.began = threading.Event()
        monkeypatch.setattr(publisher._folder, "write", self.write)

    def write(self, *args: Any, **options: Any) -> WeightManifest:
        self.began.set()
        assert self.release.wait(60)
        return self._write(*args, **options)


async def held_publish(
    root: Path, monkeypatch: pytest.MonkeyPatch, sampler: Any = None
) -> tuple[Any, Any, Held, Any]:
    """A publisher that has begun to write version 1 for an expert."""
    publisher, gateway = publisher_of(root)
    learner = Learner(nn.Linear(2, 2), OptimiserConfig(lr=1.0))
    await publisher._publish(learner, 0, checkpoint=True)
    held = Held(publisher, monkeypatch)
    config = settings(checkpoint_every=10, **READERS["experts"] | {"sampler": sampler})
    await publisher.publish(1, learner, config)
    return publisher, gateway, held, learner


@pytest.mark.parametrize("sampler", [None, SimpleNamespace(weights="sent")], ids=["own", "sent"])
async def test_the_next_step_is_sampled_while_files_for_experts_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: Any
) -> None:
    publisher, gateway, held, learner = await held_publish(tmp_path, monkeypatch, sampler)
    sampled = nn.Linear(2, 2)

    take_weights(sampled, publisher.published.tensors)
    await publisher.known("quickstart/l0/0")

    assert torch.equal(sampled.weight, learner.model.weight)
    assert publisher.metrics() == {"published_bytes": 4 * 6}
    assert [m.version for m in gateway.manifests] == ["quickstart/l0/0"]
    held.release.set()
    await publisher.publish(2, learner, settings(checkpoint_every=2, **READERS["experts"]))
    assert [m.version for m in gateway.manifests] == [f"quickstart/l0/{n}" for n in range(3)]
    assert [m.parent for m in gateway.manifests][1:] == [f"quickstart/l0/{n}" for n in range(2)]


async def test_who_names_a_version_waits_for_it_though_another_one_stops_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, gateway, held, _ = await held_publish(tmp_path, monkeypatch)
    ended, waiting = (asyncio.create_task(publisher.known("quickstart/l0/1")) for _ in range(2))
    await asyncio.sleep(0)

    ended.cancel()
    await asyncio.wait([ended])
    held.release.set()
    await waiting

    assert ended.cancelled()
    assert publisher.published.manifest == gateway.manifests[-1]
    assert gateway.manifests[-1].version == "quickstart/l0/1"


@pytest.mark.parametrize("every", [1, 10])
async def test_a_step_that_begins_while_files_for_a_service_are_written_samples_the_version_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    publisher, gateway = publisher_of(tmp_path)
    learner = Learner(nn.Linear(2, 2), OptimiserConfig(lr=1.0))
    await publisher._publish(learner, 0, checkpoint=True)
    held = Held(publisher, monkeypatch)
    config = settings(checkpoint_every=every, **READERS["sampler"])

    publishing = asyncio.create_task(publisher.publish(1, learner, config))
    assert await asyncio.to_thread(held.began.wait, 60)
    meanwhile = publisher.published
    await publisher.known("quickstart/l0/0")  # a question about it waits for no files
    held.release.set()
    await publishing

    assert meanwhile.manifest == gateway.manifests[0]
    assert publisher.published.manifest == gateway.manifests[1]


async def test_files_that_cannot_be_written_end_the_step_that_names_them_and_the_next_publishing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, gateway, held, learner = await held_publish(tmp_path, monkeypatch)

    def full(*args: Any, **options: Any) -> WeightManifest:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(held, "_write", full)
    held.release.set()

    with pytest.raises(OSError, match="no space left"):
        await publisher.known("quickstart/l0/1")
    with pytest.raises(OSError, match="no space left"):
        await publisher.publish(2, learner, settings(**READERS["experts"]))
    await publisher.close()
    assert len(gateway.manifests) == 1


async def test_a_run_that_ends_waits_for_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, gateway, held, _ = await held_publish(tmp_path, monkeypatch)

    await publisher.close()

    ended = publisher._writing.cancelled()  # and not because its files were written or failed
    held.release.set()
    assert ended
    assert len(gateway.manifests) == 1


def test_a_sampler_computes_with_the_published_tensors_and_copies_other_types() -> None:
    weights = {"weight": torch.full((2, 2), 3.0), "bias": torch.ones(2)}
    model, lower = nn.Linear(2, 2), nn.Linear(2, 2, dtype=torch.bfloat16)

    take_weights(model, weights)
    take_weights(lower, weights)

    assert model.weight.data_ptr() == weights["weight"].data_ptr()
    assert lower.weight.dtype == torch.bfloat16
    assert lower.weight.tolist() == [[3, 3], [3, 3]]


def test_a_sampler_takes_no_version_with_other_tensors_than_its_models() -> None:
    model = nn.Linear(2, 2)

    with pytest.raises(ValueError, match=r"missing \['bias'\]"):
        take_weights(model, {"weight": torch.zeros(2, 2)})
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        take_weights(model, {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)})


@pytest.mark.parametrize(("keep", "every"), [(2, 3), (1, 5), (4, 20)])
@pytest.mark.parametrize("readers", list(READERS))
async def test_a_run_never_keeps_more_on_disk_than_is_planned(
    tmp_path: Path, readers: str, keep: int, every: int
) -> None:
    publisher, _ = publisher_of(tmp_path)
    learner = Learner(nn.Linear(2, 2), OptimiserConfig(lr=1.0))
    config = settings(checkpoint_every=every, keep=keep, **READERS[readers])
    remember(tmp_path, Lineage(name="l0", parent=None, from_step=0, steps=12))
    await publisher._publish(learner, 0, checkpoint=True)
    plan = disk_plan(config, cast(Shape, SimpleNamespace(num_parameters=6)), tmp_path)
    most = 0

    for step in range(1, 13):
        await publisher.publish(step, learner, config)
        most = max(most, len([*(tmp_path / "weights").glob("*/*/[0-9]*")]))
        await publisher.checkpoint_if_due(step, learner, config)

    assert most <= plan.num_versions
    # With teachers the plan is for one that has not stored its newest average yet.
    assert readers == "experts" or most >= plan.num_versions - 1


@pytest.mark.parametrize("readers", list(READERS))
async def test_a_runs_publisher_leaves_first_and_last_versions(
    tmp_path: Path, readers: str
) -> None:
    publisher, gateway = publisher_of(tmp_path)
    learner = Learner(nn.Linear(2, 2), OptimiserConfig(lr=1.0))
    config = settings(checkpoint_every=3, **READERS[readers])
    remember(tmp_path, Lineage(name="l0", parent=None, from_step=0, steps=12))
    await publisher._publish(learner, 0, checkpoint=True)

    for step in range(1, 13):
        await publisher.publish(step, learner, config)
        await publisher.checkpoint_if_due(step, learner, config)

    found = (tmp_path / "weights").glob("*/*/[0-9]*")
    assert sorted(int(path.name) for path in found) == [0, 9, 12]
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == ["00000009", "00000012"]
    # Where nobody reads versions, those between two checkpoints have no files.
    written = range(0, 13, 3) if readers in ("none", "sent", "broadcast") else range(13)
    names = [f"quickstart/l0/{step}" for step in written]
    assert [m.version for m in gateway.manifests] == names
    assert [m.parent for m in gateway.manifests] == [None, *names[:-1]]
    assert [m.checkpoint for m in gateway.manifests] == [step % 3 == 0 for step in written]


@pytest.mark.parametrize(
    ("readers", "found"), [("none", ["00000002"]), ("sampler", ["00000002"]), ("experts", [])]
)
async def test_a_run_that_is_ended_between_steps_keeps_its_last_step_but_with_experts(
    tmp_path: Path, readers: str, found: list[str]
) -> None:
    publisher, gateway = publisher_of(tmp_path)
    learner = Learner(nn.Linear(2, 2), OptimiserConfig(lr=1.0))
    config = settings(checkpoint_every=10, ranks=1, **READERS[readers])
    remember(tmp_path, Lineage(name="l0", parent=None, from_step=0, steps=12))
    await publisher._publish(learner, 0, checkpoint=True)
    for step in (1, 2):
        await publisher.publish(step, learner, config)
        await publisher.checkpoint_if_due(step, learner, config)

    await publisher.keep_step(learner, config)
    await publisher.keep_step(learner, config)

    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == found
    for path in checkpoints(tmp_path / "checkpoints"):
        kept = publisher._folder.read(weights_of(path))
        assert all(torch.equal(kept[name], one) for name, one in learner.weights().items())
        assert weights_of(path) in [manifest.version for manifest in gateway.manifests]


async def test_a_run_that_a_participant_ends_early_has_its_last_version(tmp_path: Path) -> None:
    publisher, gateway = publisher_of(tmp_path)
    learner = Learner(nn.Linear(2, 2), OptimiserConfig(lr=1.0))
    await publisher._publish(learner, 0, checkpoint=True)
    await publisher.publish(1, learner, settings(checkpoint_every=10))

    for _ in range(2):  # the second time it has files
        await publisher.write_last(learner)

    kept = publisher._folder.read("quickstart/l0/1")
    assert all(torch.equal(kept[name], one) for name, one in learner.weights().items())
    assert [(m.version, m.parent) for m in gateway.manifests] == [
        ("quickstart/l0/0", None),
        ("quickstart/l0/1", "quickstart/l0/0"),
    ]


async def test_a_run_that_is_ended_without_its_gateway_goes_on_from_its_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, gateway = publisher_of(tmp_path)
    learner = Learner(nn.Linear(2, 2), OptimiserConfig(lr=1.0))
    config = settings(checkpoint_every=10, ranks=1)
    await publisher._publish(learner, 0, checkpoint=True)
    await publisher.publish(1, learner, config)

    async def gone(manifest: WeightManifest) -> None:
        raise ServiceUnavailable("no reply")

    monkeypatch.setattr(gateway, "register_weights", gone)
    await publisher.keep_step(learner, config)

    assert checkpoints(tmp_path / "checkpoints") == []


async def test_the_best_version_stays_though_it_is_older_than_those_kept(tmp_path: Path) -> None:
    publisher, _ = publisher_of(tmp_path)
    learner = Learner(nn.Linear(2, 2), OptimiserConfig(lr=1.0))
    evaluated = SimpleNamespace(is_due=lambda step: step == 4)
    config = settings(checkpoint_every=5, evaluation=evaluated)
    remember(tmp_path, Lineage(name="l0", parent=None, from_step=0, steps=12))
    await publisher._publish(learner, 0, checkpoint=True)

    for step in range(1, 13):
        await publisher.publish(step, learner, config)
        await publisher.checkpoint_if_due(step, learner, config)
        if step == 4:
            weights = publisher.published.version
            (tmp_path / BEST_FILE).write_text(json.dumps({"weights": weights}))

    found = (tmp_path / "weights").glob("*/*/[0-9]*")
    assert sorted(int(path.name) for path in found) == [0, 4, 10, 12]


class Starting(Recording):
    """A gateway that answers what a start asks."""

    async def weights(self, version: str) -> WeightManifest:
        return next(one for one in self.manifests if one.version == version)

    async def weight_lineage(self, version: str) -> list[WeightManifest]:
        return [one for one in self.manifests if one.version <= version]


class Quiet:
    """A journal of a run that the gateway knows."""

    def __init__(self, lineages: Sequence[str]) -> None:
        self._lineages = lineages

    async def start_run(self) -> Any:
        return SimpleNamespace(lineages=[SimpleNamespace(lineage=one) for one in self._lineages])

    async def start_lineage(self, lineage: Lineage) -> None:
        pass


def adapted_learner(folder: Path) -> Learner:
    model = AutoModelForCausalLM.from_pretrained(folder)
    adapter = add_adapter(model, Lora(rank=2, targets=("q_proj",)), 0)
    return Learner(model, OptimiserConfig(lr=1.0), adapter=adapter)


def changed(learner: Learner) -> None:
    with torch.no_grad():
        for name, parameter in learner.model.named_parameters():
            if ".lora_B." in name:
                parameter.add_(0.01)


def rounding_publisher(root: Path, gateway: Starting) -> Publisher:
    folder, rounding = (
        WeightFolder(root / "weights", "p", "0" * 64),
        Rounding(seed=3, by_chance=True),
    )
    return Publisher(folder, root, cast(GatewayClient, gateway), rounding=rounding)


def trained(root: Path, step: int) -> Learner:
    """A learner with weights between two numbers of bfloat16, and with moments."""
    learner = Learner(nn.Linear(50, 40), OptimiserConfig(lr=1e-3))
    for parameter in learner.model.parameters():
        parameter.data.fill_(1 + 2**-9 + step * 2**-12)
        parameter.grad = torch.ones_like(parameter)
    cast(Any, learner)._optimiser.step()
    return learner


async def test_a_rounded_run_samples_what_its_files_hold_and_goes_on_with_all_of_float32(
    tmp_path: Path,
) -> None:
    gateway = Starting()
    config = settings(checkpoint_every=1, **READERS["sampler"], publish="bfloat16")
    first = rounding_publisher(tmp_path, gateway)
    await first.start(config, trained(tmp_path, 0), cast(Journal, Quiet([])))
    learner = trained(tmp_path, 1)
    await first.publish(1, learner, config)
    await first.checkpoint_if_due(1, learner, config)
    again, resumed = rounding_publisher(tmp_path, gateway), trained(tmp_path, 2)

    await again.start(config, resumed, cast(Journal, Quiet(["l0"])))

    written = first._folder.read("p/l0/1")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    for name, weight in learner.weights().items():
        assert torch.equal(first.published.tensors[name], written[name])
        assert torch.equal(again.published.tensors[name], written[name])
        assert torch.equal(resumed.weights()[name], weight)
        assert not torch.equal(written[name].float(), weight)


async def test_a_rounded_run_keeps_no_more_bytes_than_are_planned(tmp_path: Path) -> None:
    gateway, learner = Starting(), trained(tmp_path, 0)
    config = settings(checkpoint_every=2, steps=6, **READERS["sampler"], publish="bfloat16")
    plan = disk_plan(config, cast(Shape, SimpleNamespace(num_parameters=50 * 40 + 40)), tmp_path)
    publisher = rounding_publisher(tmp_path, gateway)
    await publisher.start(config, learner, cast(Journal, Quiet([])))

    for step in range(1, 7):
        await publisher.publish(step, learner, config)
        await publisher.checkpoint_if_due(step, learner, config)

    sizes = [path.stat().st_size for path in tmp_path.rglob("*.safetensors")]
    states = [path.stat().st_size for path in tmp_path.rglob("trainer.pt")]
    # Beside the tensors a file has a list of them, and a checkpoint's an archive's index.
    assert all(0 < size - plan.version_bytes < 500 for size in sizes)
    assert all(0 < size - plan.state_bytes < 6_000 for size in states)
    assert (len(sizes) <= plan.num_versions, len(states) < plan.num_states) == (True, True)


class AdaptedRun:
    """Two steps of a run that trains an adapter, and another start of it."""

    def __init__(self, root: Path) -> None:
        self.root, self.gateway = root, Starting()
        self.model = tiny_model("qwen3", root / "model")
        self.folder = WeightFolder(root / "weights", "p", "0" * 64)
        self.learner = adapted_learner(self.model)
        self.config = settings(checkpoint_every=2, **READERS["sampler"])

    async def start(self, learner: Learner, known: Sequence[str], *, adapters: bool) -> Publisher:
        publisher = Publisher(self.folder, self.root, cast(GatewayClient, self.gateway))
        journal = cast(Journal, Quiet(known))
        await publisher.start(self.config, learner, journal, adapters=adapters)
        return publisher

    async def two_steps(self, *, adapters: bool) -> Publisher:
        publisher = await self.start(self.learner, [], adapters=adapters)
        await self.steps(publisher, self.learner, 1, 2)
        return publisher

    async def steps(self, publisher: Publisher, learner: Learner, first: int, last: int) -> None:
        for step in range(first, last + 1):
            changed(learner)
            await publisher.publish(step, learner, self.config)
            await publisher.checkpoint_if_due(step, learner, self.config)

    @property
    def on_disk(self) -> list[str]:
        root = self.root / "weights"
        return sorted(str(path.relative_to(root)) for path in root.glob("*/*/[0-9]*"))


@pytest.mark.parametrize("adapters", [True, False])
async def test_a_run_with_an_adapter_publishes_it_alone_unless_somebody_needs_whole_versions(
    tmp_path: Path, adapters: bool
) -> None:
    run = AdaptedRun(tmp_path)

    publisher = await run.two_steps(adapters=adapters)

    base, *later = (one.base for one in run.gateway.manifests)
    assert base is None
    assert later == ["p/l0/0" if adapters else None] * 2
    whole = run.gateway.manifests[0].num_bytes
    assert whole is not None
    assert (publisher.metrics()["published_bytes"] < 0.1 * whole) == adapters


async def test_the_first_version_is_there_as_an_adapter_that_changes_nothing(
    tmp_path: Path,
) -> None:
    run = AdaptedRun(tmp_path)
    await run.two_steps(adapters=True)

    first = tmp_path / "weights/p/l0/0"
    tensors = load_file(first / FIRST_ADAPTER / ADAPTER_FILE)
    assert {float(t.abs().max()) > 0 for n, t in tensors.items() if "lora_A" in n} == {True}
    assert {float(t.abs().max()) for n, t in tensors.items() if "lora_B" in n} == {0.0}
    assert base_folder(first) is None
    assert not [*(tmp_path / "weights/p/l0/2").glob(FIRST_ADAPTER)]


@pytest.mark.parametrize("adapters", [True, False])
async def test_adapters_go_on_from_versions_of_either_kind(tmp_path: Path, adapters: bool) -> None:
    run = AdaptedRun(tmp_path)
    await run.two_steps(adapters=adapters)
    learner = adapted_learner(run.model)

    publisher = await run.start(learner, ["l0"], adapters=True)
    changed(learner)
    await publisher.publish(3, learner, run.config)

    changed(run.learner)
    found, wanted = run.folder.read("p/l1/3"), run.learner.weights()
    assert run.gateway.manifests[-1].base == "p/l0/0"
    assert all(torch.equal(found[name], weight) for name, weight in wanted.items())


@pytest.mark.parametrize("readers", list(READERS))
async def test_a_killed_run_that_went_on_can_read_each_adapter_that_stays(
    tmp_path: Path, readers: str
) -> None:
    run = AdaptedRun(tmp_path)
    run.config = settings(checkpoint_every=2, keep=1, **READERS[readers])
    first = await run.start(run.learner, [], adapters=True)
    await run.steps(first, run.learner, 1, 5)
    learner = adapted_learner(run.model)

    again = await run.start(learner, ["l0"], adapters=True)
    assert "p/l0/5" not in run.on_disk
    assert all(run.folder.read(version) for version in run.on_disk)
    await run.steps(again, learner, 5, 12)

    assert "p/l1/12" in run.on_disk
    assert all(run.folder.read(version) for version in run.on_disk)


async def test_a_run_of_adapters_keeps_no_more_on_disk_than_is_planned(tmp_path: Path) -> None:
    run, most = AdaptedRun(tmp_path), 0
    lora = Lora(rank=2, targets=("q_proj",))
    run.config = settings(checkpoint_every=3, lora=lora, **READERS["sampler"])
    plan = disk_plan(run.config, shape_of(run.model), tmp_path, adapters=True)
    publisher = await run.start(run.learner, [], adapters=True)

    for step in range(1, 13):
        await publisher.publish(step, run.learner, run.config)
        sizes = [path.stat().st_size for path in (tmp_path / "weights").rglob("adapter_model.*")]
        most = max(most, len(sizes))
        # The tensors, and the file's list of them.
        assert all(0 < size - plan.adapter_bytes < 1000 for size in sizes)
        await publisher.checkpoint_if_due(step, run.learner, run.config)

    assert plan.num_adapters - 1 <= most <= plan.num_adapters
    assert plan.num_versions == len([*(tmp_path / "weights").rglob("model.safetensors")])


async def test_a_start_that_publishes_whole_versions_names_the_base_of_the_last_one(
    tmp_path: Path,
) -> None:
    run = AdaptedRun(tmp_path)
    first = await run.two_steps(adapters=True)

    again = await run.start(adapted_learner(run.model), ["l0"], adapters=False)

    assert again.published.base is not None
    assert again.published.base == first.published.base


def service(name: str, **capabilities: Any) -> ServiceStatus:
    info = ServiceInfo(
        name=name, role="expert", version="1",
        capabilities=Capabilities(**capabilities), limits=ServiceLimits(),
    )  # fmt: skip
    return ServiceStatus(name=name, role="expert", state="ready", info=info)


def gateway_of(first: ServiceStatus, *later: ServiceStatus) -> GatewayClient:
    """A gateway with one service, which is another each time that it is asked."""
    states = [*reversed(later), first]

    async def experts() -> Services:
        return Services(services=(states.pop() if len(states) > 1 else states[0],))

    return cast(GatewayClient, SimpleNamespace(experts=experts))


def student_of(*, takes_adapters: bool) -> Student:
    async def takes() -> bool:
        return takes_adapters

    return cast(Student, SimpleNamespace(takes_adapters=takes))


UNREACHABLE = ServiceStatus(name="teacher", role="expert", state="unreachable")


@pytest.mark.parametrize(
    ("teacher", "sampler", "suffice"),
    [
        (service("teacher", weights=True, adapters=True), True, True),
        (service("teacher"), True, True),
        (service("teacher", weights=True), True, False),
        (service("teacher", weights=True, adapters=True), False, False),
        (UNREACHABLE, True, False),
        (service("another", weights=True, adapters=True), True, False),
    ],
)
async def test_adapters_suffice_where_all_who_load_versions_take_them(
    teacher: ServiceStatus, sampler: bool, suffice: bool
) -> None:
    gateway, student = gateway_of(teacher), student_of(takes_adapters=sampler)
    uses = (SimpleNamespace(name="teacher"),)

    adapted, plain = (settings(lora=lora, experts=uses) for lora in ("any", None))
    assert await adapters_suffice(adapted, gateway, student, wait_s=0) == suffice
    assert not await adapters_suffice(plain, gateway, student)


@pytest.mark.parametrize(
    ("teacher", "takes", "message"),
    [
        (service("teacher", weights=True, adapters=True), False, "--enable-lora"),
        (service("teacher", weights=True), True, "the teacher 'teacher' takes no adapters"),
        (UNREACHABLE, True, "did not answer within 0 s"),
    ],
)
async def test_whole_versions_are_refused_at_once_where_runs_share_the_server(
    teacher: ServiceStatus, takes: bool, message: str
) -> None:
    gateway, student = gateway_of(teacher), student_of(takes_adapters=takes)
    uses, shared = (SimpleNamespace(name="teacher"),), SimpleNamespace(shared=True)

    with pytest.raises(UnfitServer, match=rf"rollout\.sampler\.shared: .*{message}"):
        await adapters_suffice(
            settings(lora="any", experts=uses, sampler=shared), gateway, student, wait_s=0
        )


async def test_an_expert_that_the_gateway_has_not_asked_yet_is_waited_for() -> None:
    gateway = gateway_of(UNREACHABLE, service("teacher", weights=True, adapters=True))
    student = student_of(takes_adapters=True)
    uses = (SimpleNamespace(name="teacher"),)

    assert await adapters_suffice(settings(lora="any", experts=uses), gateway, student)
