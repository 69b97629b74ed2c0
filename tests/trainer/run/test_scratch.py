"""Versions between checkpoints that pass through a folder of their own, such as shared memory."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
import typer
from torch import nn

from preceptor_trainer.commands.room import check_room, plan_of
from preceptor_trainer.kit.machine import is_in_memory
from preceptor_trainer.learner.learner import Learner, OptimiserConfig
from preceptor_trainer.learner.policy import passing_folder
from preceptor_trainer.model.shape import Shape
from preceptor_trainer.recipes.quickstart import quickstart
from preceptor_trainer.run.checkpoint import checkpoints
from preceptor_trainer.run.needs import disk_plan as disk_plan_module
from preceptor_trainer.run.needs.disk_plan import disk_plan
from preceptor_trainer.run.publishing import VersionsLost
from preceptor_trainer.run.retention import Lost, Retention, Version
from preceptor_trainer.run.schedules import Overlapped
from preceptor_trainer.run.standing import Lineage, remember
from preceptor_trainer.runfile.students import model_folder

from ..commands.test_room import built_of
from .test_publishing import READERS, publisher_of, settings


@pytest.fixture
def learner() -> Learner:
    return Learner(nn.Linear(2, 2), OptimiserConfig(lr=1.0))


def versions(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("*/*/[0-9]*"))


@pytest.fixture
def line() -> list[Lineage]:
    return [Lineage(name="l0", parent=None, from_step=0)]


@pytest.mark.parametrize("readers", ["experts", "sampler"])
async def test_the_run_folder_has_checkpoints_alone_and_no_folder_more_than_planned(
    tmp_path: Path, learner: Learner, readers: str
) -> None:
    scratch = tmp_path / "scratch"
    publisher, gateway = publisher_of(tmp_path, scratch=scratch)
    config = settings(checkpoint_every=3, scratch=scratch, **READERS[readers])
    remember(tmp_path, Lineage(name="l0", parent=None, from_step=0, steps=12))
    await publisher._publish(learner, 0, checkpoint=True)
    plan = disk_plan(config, cast(Shape, SimpleNamespace(num_parameters=6)), tmp_path)
    passing = passing_folder(scratch, tmp_path / "weights")
    most = {"kept": 0, "passing": 0}

    for step in range(1, 13):
        await publisher.publish(step, learner, config)
        await publisher.known(publisher.published.version)
        assert not [one for one in versions(tmp_path / "weights") if one % 3]
        most["kept"] = max(most["kept"], len(versions(tmp_path / "weights")))
        most["passing"] = max(most["passing"], len(versions(passing)))
        await publisher.checkpoint_if_due(step, learner, config)

    assert versions(tmp_path / "weights") == [0, 9, 12]
    assert versions(passing) == []
    places = {Version.of(m.version).step: m.uri for m in gateway.manifests}
    assert {step for step, uri in places.items() if uri.startswith(passing.as_uri())} == {
        step for step in range(13) if step % 3
    }
    assert plan.passing is not None
    assert most["kept"] <= plan.num_versions
    assert 0 < most["passing"] <= plan.passing.num_versions


async def test_files_of_a_run_that_ended_are_gone_and_those_of_one_that_may_go_on_stay(
    tmp_path: Path, learner: Learner
) -> None:
    scratch = tmp_path / "scratch"
    ended, _ = publisher_of(tmp_path / "ended", scratch=scratch)
    interrupted, _ = publisher_of(tmp_path / "interrupted", scratch=scratch)
    for publisher in (ended, interrupted):
        await publisher._publish(learner, 1, checkpoint=False)

    await ended.finish()
    await ended.close()
    await interrupted.close()

    assert versions(passing_folder(scratch, tmp_path / "ended" / "weights")) == []
    assert versions(passing_folder(scratch, tmp_path / "interrupted" / "weights")) == [1]


async def test_files_that_cannot_be_removed_are_no_later_versions(
    tmp_path: Path, learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, _ = publisher_of(tmp_path, scratch=tmp_path / "scratch")
    await publisher._publish(learner, 1, checkpoint=False)

    def of_another_user(path: Path, *args: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", of_another_user)

    with pytest.raises(PermissionError):
        await publisher.finish()


@pytest.mark.parametrize("readers", ["sampler", "none"])
async def test_a_version_that_a_participant_ends_the_run_with_is_kept(
    tmp_path: Path, learner: Learner, readers: str
) -> None:
    publisher, gateway = publisher_of(tmp_path, scratch=tmp_path / "scratch")
    await publisher._publish(learner, 0, checkpoint=True)
    config = settings(checkpoint_every=10, scratch=tmp_path / "scratch", **READERS[readers])
    await publisher.publish(1, learner, config)
    assert versions(tmp_path / "weights") == [0]

    await publisher.write_last(learner)
    await publisher.finish()

    kept = publisher._folder.read("quickstart/l0/1")
    assert all(torch.equal(kept[name], one) for name, one in learner.weights().items())
    # Where nobody loads versions, nobody need be allowed to read the scratch folder.
    last = gateway.manifests[-1].uri
    assert last.startswith((tmp_path / "weights").as_uri()) == (readers == "none")


async def test_a_run_that_is_ended_between_steps_goes_on_from_its_last_checkpoint(
    tmp_path: Path, learner: Learner
) -> None:
    publisher, _ = publisher_of(tmp_path, scratch=tmp_path / "scratch")
    remember(tmp_path, Lineage(name="l0", parent=None, from_step=0, steps=12))
    config = settings(
        checkpoint_every=10, ranks=1, scratch=tmp_path / "scratch", **READERS["sampler"]
    )
    await publisher._publish(learner, 0, checkpoint=True)
    await publisher.publish(1, learner, config)

    await publisher.keep_step(learner, config)

    assert checkpoints(tmp_path / "checkpoints") == []


def test_what_a_killed_run_left_in_either_folder_goes(tmp_path: Path, line: list[Lineage]) -> None:
    folders = (tmp_path / "kept" / "p", tmp_path / "passing" / "p")
    for folder in folders:
        (folder / "l9" / "4").mkdir(parents=True)
        (folder / "l0" / ".7.partial").mkdir(parents=True)
    (folders[0] / "l0" / "0").mkdir()
    (folders[1] / "l0" / "1").mkdir()
    (folders[1] / "l0" / "2").mkdir()
    retention = Retention(folder=folders[0], passing=folders[1], keep=1, averaged=False)
    retention.prune(line, [Version("l0", 0)], num_newest=1)

    left = (path for folder in folders for path in folder.glob("*/*"))
    assert sorted(f"{path.parent.name}/{path.name}" for path in left) == ["l0/0", "l0/2"]


@pytest.mark.parametrize(
    ("stored", "there", "expected"),
    [
        ((0, 3), (), None),  # the average at the checkpoint is stored: nothing before it is needed
        ((0,), (1, 2), None),  # all that leads to it is there
        ((0,), (1,), Lost(first=2, stored=0)),
        ((0,), (), Lost(first=1, stored=0)),
        ((), (), None),  # no teacher averages
    ],
)
def test_versions_that_an_average_needs_are_missed_where_a_run_would_go_on(
    tmp_path: Path,
    line: list[Lineage],
    stored: Sequence[int],
    there: Sequence[int],
    expected: Lost | None,
) -> None:
    kept, passing = tmp_path / "kept" / "p", tmp_path / "passing" / "p"
    for step in (0, 3):
        (kept / "l0" / str(step)).mkdir(parents=True)
    for step in there:
        (passing / "l0" / str(step)).mkdir(parents=True)
    for step in stored:
        (kept / "l0" / "ema-a").mkdir(exist_ok=True)
        (kept / "l0" / "ema-a" / f"{step}.json").touch()

    retention = Retention(folder=kept, passing=passing, keep=2, averaged=True)

    assert retention.lost(line, [Version("l0", 3)], Version("l0", 3)) == expected


def test_a_start_that_could_not_be_taught_is_refused_with_where_to_go_on(tmp_path: Path) -> None:
    publisher, _ = publisher_of(tmp_path, scratch=tmp_path / "scratch")
    remember(tmp_path, Lineage(name="l0", parent=None, from_step=0, steps=12))
    for step in (0, 3, 6):
        (tmp_path / "weights" / "quickstart" / "l0" / str(step)).mkdir(parents=True)
    (tmp_path / "weights" / "quickstart" / "l0" / "ema-a").mkdir()
    (tmp_path / "weights" / "quickstart" / "l0" / "ema-a" / "3.json").touch()
    for step in (3, 6):
        checkpoint = tmp_path / "checkpoints" / f"{step:08d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "state.json").write_text(f'{{"weights": "quickstart/l0/{step}"}}')
    config = settings(keep=2, **READERS["experts"])

    with pytest.raises(VersionsLost, match="lacks the weights of step 4") as refused:
        publisher._check_averages(config, Version("l0", 6))

    assert f"Remove the folders in {tmp_path / 'checkpoints'} after 00000003" in str(refused.value)


def test_room_that_an_interrupted_run_left_full_counts_for_its_continuation(
    tmp_path: Path,
) -> None:
    scratch, run_dir = tmp_path / "scratch", tmp_path / "run"
    left = passing_folder(scratch, run_dir / "weights") / "p" / "l0" / "1" / "model.safetensors"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"x" * 1000)

    plan = plan_of(replace(quickstart(), scratch=scratch), run_dir).disk.passing

    assert plan is not None
    assert plan.there_bytes == 1000
    assert plan.room_bytes == plan.free_bytes + 1000


def test_shared_memory_is_told_from_a_disk(tmp_path: Path) -> None:
    assert is_in_memory(Path("/dev/shm/preceptor/not-there-yet"))
    assert not is_in_memory(Path("/proc"))


def test_who_loads_versions_may_read_the_scratch_folder_of_this_run_alone(tmp_path: Path) -> None:
    built = built_of(tmp_path, '[model]\nscratch = "near"\n')

    run_dir = tmp_path / "runs" / "run"
    passing = passing_folder(tmp_path / "near", run_dir / "weights")
    assert built.config.scratch == tmp_path / "near"
    assert built.deployment.gateway.weights_roots == (Path("weights"), passing)
    [teacher] = built.deployment.experts.values()
    assert teacher.options["weights_roots"] == [str(run_dir / "weights"), str(passing)]


def test_steps_that_overlap_need_their_versions_in_the_run_folder(tmp_path: Path) -> None:
    config = quickstart(steps=1)

    with pytest.raises(ValueError, match="scratch: needs staleness 0"):
        replace(config, scratch=tmp_path, schedule=Overlapped(staleness=1))
    assert replace(config, scratch=tmp_path).scratch == tmp_path


def test_a_scratch_folder_without_room_is_refused_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_plan_module, "free_disk_bytes", lambda folder: 64 << 20)
    plan = plan_of(replace(quickstart(), scratch=tmp_path / "near"), tmp_path / "run")

    with pytest.raises(typer.Exit):
        check_room(plan, refuse=True)

    said = capsys.readouterr().err
    assert "near will hold" in said
    assert "has room for 0.067 GB" in said
    assert "shm_size" in said


def test_a_folder_of_a_run_file_may_begin_with_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "model").mkdir(parents=True)
    (tmp_path / "home" / "model" / "config.json").touch()

    built = built_of(tmp_path, '[model]\nscratch = "~/near"\n')

    assert built.config.scratch == tmp_path / "home" / "near"
    assert model_folder("~/model", tmp_path) == tmp_path / "home" / "model"
