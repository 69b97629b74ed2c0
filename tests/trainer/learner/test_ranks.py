"""Two processes take the step of one, and go on where one stopped, and one where they stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

from preceptor_trainer.learner import group as ranks
from preceptor_trainer.learner.group import Group, RankEnded, started
from preceptor_trainer.learner.leader import Leader, Setup
from preceptor_trainer.learner.learner import Learner, OptimiserConfig
from preceptor_trainer.learner.lora import Lora, add_adapter
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.model.batch import TrainBatch, make_batches
from preceptor_trainer.model.heads.lean import LeanHead
from preceptor_trainer.objectives import Objective
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.objectives.grpo import GRPO

from ...models.tiny import tiny_model

Batches = list[TrainBatch]
LORA = Lora(rank=4, alpha=8.0, dropout=0.25)
OPTIMISER = OptimiserConfig(lr=0.01, max_grad_norm=0.5)
HEAD = LeanHead(chunk_bytes=1024)


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    found = started(2, tmp_path_factory.mktemp("ranks"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model("smollm2", tmp_path_factory.mktemp("model"))


@pytest.fixture
def batches(make_labelled: Callable[..., Any]) -> Batches:
    """An odd number of batches for two ranks, with a group that is split over them."""
    draw = np.random.default_rng(0)
    rows = [
        make_labelled(str(i), draw.integers(0, 3, 2 + i).tolist(), seed=i, group=i // 4)
        for i in range(7)
    ]
    found = make_batches(rows, token_budget=14)
    assert len(found) == 5
    return found


def alone(folder: Path, lora: Lora | None, optimiser: OptimiserConfig = OPTIMISER) -> Learner:
    policy = Policy(folder)
    adapter = None if lora is None else add_adapter(policy.model, lora, 0)
    return Learner(policy.model, optimiser, head=HEAD, adapter=adapter)


def together(
    group: Group,
    folder: Path,
    lora: Lora | None,
    *,
    checkpointing: bool = False,
    optimiser: OptimiserConfig = OPTIMISER,
) -> Leader:
    setup = Setup(
        folder=folder,
        optimiser=optimiser,
        lora=lora,
        seed=0,
        head=HEAD,
        packing=False,
        checkpointing=checkpointing,
        device_type="cpu",
        dtype="float32",
        threads=1,
    )
    return Leader(group, setup)


def largest_gap(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    assert found.keys() == wanted.keys()
    return max(float((found[name] - wanted[name]).abs().max()) for name in wanted)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize(
    "objective",
    [DistIL(), pytest.param(GRPO(dynamic_sampling=False), marks=pytest.mark.gauntlet)],
    ids=["distil", "grpo"],
)
def test_two_ranks_take_the_step_of_one(
    group: Group, folder: Path, batches: Batches, objective: Objective, lora: Lora | None
) -> None:
    one, two = alone(folder, lora), together(group, folder, lora)

    wanted, found = one.step(batches, objective), two.step(batches, objective)

    assert found.loss == pytest.approx(wanted.loss, rel=1e-5)
    assert found.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-5)
    assert found.metrics == pytest.approx(wanted.metrics, rel=1e-5)
    # The first moment is a tenth of the clipped gradient.
    moments, own = (x.state_dict()["optimiser"]["state"] for x in (two, one))
    assert moments.keys() == own.keys()
    for place, moment in own.items():
        gap = moments[place]["exp_avg"] - moment["exp_avg"]
        assert gap.norm() <= 1e-5 * OPTIMISER.max_grad_norm
    files = two.adapter()
    assert (files is None) == (lora is None)
    if files is not None:
        assert largest_gap(dict(files.tensors), dict(one.adapter().tensors)) < 1e-5
    credits = {credit.rollout_id: credit.advantage_T for credit in wanted.credits}
    assert {credit.rollout_id for credit in found.credits} == set(credits)
    for credit in found.credits:
        np.testing.assert_allclose(credit.advantage_T, credits[credit.rollout_id], atol=1e-5)


@pytest.mark.parametrize(
    "lora", [None, pytest.param(LORA, marks=pytest.mark.gauntlet)], ids=["full", "lora"]
)
def test_two_ranks_go_on_from_one_and_one_from_two(
    group: Group, folder: Path, batches: Batches, lora: Lora | None, tmp_path: Path
) -> None:
    undisturbed, first = alone(folder, lora), alone(folder, lora)
    wanted = [undisturbed.step(batches, DistIL()).loss for _ in range(3)]
    found = [first.step(batches, DistIL()).loss]

    second = together(group, folder, lora)
    second.restore(first.weights(), first.state_dict())
    found.append(second.step(batches, DistIL()).loss)
    torch.save(second.state_dict(), tmp_path / "trainer.pt")
    third = alone(folder, lora)
    state = torch.load(tmp_path / "trainer.pt", weights_only=True)
    third.restore(second.weights(), state)
    found.append(third.step(batches, DistIL()).loss)

    assert found == pytest.approx(wanted, rel=1e-4)
    assert largest_gap(third.weights(), undisturbed.weights()) < 1e-4


def test_ranks_keep_rounded_moments_and_go_on_with_those_of_one(
    group: Group, folder: Path, batches: Batches
) -> None:
    optimiser = replace(OPTIMISER, moments="bfloat16")
    one, two = alone(folder, None, optimiser), together(group, folder, None, optimiser=optimiser)
    one.step(batches, DistIL())
    wanted = one.state_dict()["optimiser"]["state"]

    two.restore(one.weights(), one.state_dict())

    found = two.state_dict()["optimiser"]["state"]
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert found[0]["exp_avg"].dtype == torch.bfloat16
    two.step(batches, DistIL())
    one.step(batches, DistIL())
    assert largest_gap(two.weights(), one.weights()) < 1e-4


def test_one_batch_leaves_the_other_rank_without_work_and_layers_are_computed_again(
    group: Group, folder: Path, batches: Batches
) -> None:
    one, two = alone(folder, None), together(group, folder, None, checkpointing=True)

    wanted, found = one.step(batches[:1], DistIL()), two.step(batches[:1], DistIL())

    assert found.loss == pytest.approx(wanted.loss, rel=1e-5)
    assert found.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-5)
    assert two.measure(batches, DistIL()).loss == pytest.approx(
        one.measure(batches, DistIL()).loss, rel=1e-4
    )


def test_ranks_find_each_other_where_no_other_machine_reaches(group: Group) -> None:
    port = int(cast("list[str]", group.processes[0].args)[-1])

    connections = psutil.Process().net_connections("tcp")

    listening = [c.laddr for c in connections if c.status == psutil.CONN_LISTEN]
    assert {address.ip for address in listening if address.port == port} == {"127.0.0.1"}


def test_a_rank_that_is_killed_ends_the_step_and_is_named(
    group: Group, folder: Path, batches: Batches
) -> None:
    """The last test of the group."""
    leader = together(group, folder, None)
    group.processes[0].send_signal(signal.SIGKILL)

    with pytest.raises(RankEnded, match="rank 1 of 2 ended with -9"):
        leader.step(batches, DistIL())


def test_a_rank_that_cannot_start_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "preceptor_trainer").mkdir()
    (tmp_path / "preceptor_trainer" / "__init__.py").write_text("raise SystemExit('no memory')")

    with pytest.raises(RankEnded, match=r"rank 1 of 2 ended with 1: no memory"):
        started(2, tmp_path / "logs")


def test_a_step_that_hangs_while_the_group_is_closed_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As over NCCL, which does not notice that another rank has ended."""
    codes: list[tuple[int, int]] = []
    monkeypatch.setattr(ranks, "_NOTICED_S", 0.1)
    monkeypatch.setattr(ranks.dist, "destroy_process_group", lambda: None)
    # The watch of another test's group may still run, and is as impatient here.
    monkeypatch.setattr(os, "_exit", lambda code: codes.append((threading.get_ident(), code)))
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other:
        group = Group(rank=0, size=2, local_rank=0, processes=[other])
        group.busy.acquire()
        closing = threading.Thread(target=group.close)
        closing.start()

        ranks._end_with(group)

        group.busy.release()
        closing.join()
    assert (threading.get_ident(), 1) in codes
