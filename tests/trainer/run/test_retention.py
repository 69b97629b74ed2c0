"""Which versions of a run stay on disk; a version is a folder with one small file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from preceptor_trainer.run.retention import Retention, Version, line_of
from preceptor_trainer.run.standing import Lineage

EVERY = 10
L0 = Lineage(name="l0", parent=None, from_step=0)


class Run:
    """A run with a teacher that stores its average when a checkpoint is offered to it."""

    def __init__(self, root: Path, *, keep: int = 3, teacher: bool = True, experts: bool = True):
        self.folder = root / "p"
        self.teacher = teacher
        self.retention = Retention(folder=self.folder, keep=keep, averaged=experts)
        self.experts = experts
        self.also: set[Version] = set()
        self.lineages = [L0]
        self.checkpoints: list[Version] = []
        self.publish(0)

    def publish(self, step: int) -> None:
        lineage = self.folder / self.lineages[-1].name
        (lineage / str(step)).mkdir(parents=True)
        if self.teacher and step % EVERY == 0:
            store = lineage / "ema-a"
            store.mkdir(exist_ok=True)
            (store / f"{step}.safetensors").touch()
            (store / f"{step}.json").touch()

    def train(self, first: int, last: int, *, ends_at: int | None = None) -> None:
        for step in range(first + 1, last + 1):
            self.publish(step)
            is_due = step % EVERY == 0
            if is_due:
                self.checkpoints.append(Version(self.lineages[-1].name, step))
            if is_due or not self.experts:
                self.prune(num_newest=1 if step == ends_at else 2)

    def prune(self, num_newest: int) -> None:
        self.retention.prune(self.lineages, self.checkpoints, num_newest=num_newest, also=self.also)

    def go_on(self) -> int:
        """Another start after a kill: from the last checkpoint, or from the beginning."""
        at = self.checkpoints[-1] if self.checkpoints else None
        name = f"l{len(self.lineages)}"
        parent, step = self.lineages[-1].name, 0
        if at is not None:
            parent, step = at
        self.lineages.append(Lineage(name=name, parent=parent, from_step=step))
        if at is None:
            self.publish(0)
        self.prune(num_newest=1)
        return step

    @property
    def on_disk(self) -> list[tuple[str, int]]:
        found = (p for p in self.folder.glob("*/*") if p.name.isdigit())
        return sorted(((p.parent.name, int(p.name)) for p in found), key=lambda v: v[::-1])

    @property
    def averages(self) -> list[int]:
        return sorted(int(p.stem) for p in self.folder.glob("*/ema-a/*.safetensors"))


@pytest.mark.parametrize(("teacher", "experts"), [(True, True), (False, True), (False, False)])
def test_400_steps_leave_four_versions(tmp_path: Path, teacher: bool, experts: bool) -> None:
    run = Run(tmp_path, teacher=teacher, experts=experts)

    run.train(0, 400, ends_at=400)

    assert [step for _, step in run.on_disk] == [0, 380, 390, 400]
    assert run.averages == ([0, 380, 390, 400] if teacher else [])


def test_400_steps_and_seven_kills_leave_five_versions_at_most(tmp_path: Path) -> None:
    run, step = Run(tmp_path), 0
    for killed_at in (3, 57, 58, 60, 199, 311, 399):
        run.train(step, killed_at)
        step = run.go_on()

    run.train(step, 400, ends_at=400)

    assert [step for _, step in run.on_disk] == [0, 380, 390, 400]
    assert {lineage for lineage, _ in run.on_disk} <= set(line_of(run.lineages))
    assert sorted(p.name for p in run.folder.iterdir()) == sorted({v for v, _ in run.on_disk})


def test_the_best_version_stays_whatever_its_age(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.train(0, 50)

    run.also = {Version("l0", 30)}
    run.train(50, 400, ends_at=400)

    assert [step for _, step in run.on_disk] == [0, 30, 380, 390, 400]


def test_between_checkpoints_every_version_stays_that_an_average_may_need(tmp_path: Path) -> None:
    run = Run(tmp_path)

    run.train(0, 47)
    run.prune(num_newest=1)

    assert [step for _, step in run.on_disk] == [0, 20, 30, *range(40, 48)]


def test_a_teacher_that_was_away_keeps_the_versions_since_its_last_average(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.train(0, 20)
    run.teacher = False

    run.train(20, 40)

    assert [step for _, step in run.on_disk] == [0, *range(20, 41)]


def test_a_teacher_that_is_gone_for_good_is_not_waited_for(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.train(0, 20)
    run.teacher = False

    run.train(20, 60, ends_at=60)

    assert [step for _, step in run.on_disk] == [0, 40, 50, 60]


def test_without_experts_only_the_newest_versions_stay_between_checkpoints(tmp_path: Path) -> None:
    run = Run(tmp_path, teacher=False, experts=False)

    run.train(0, 47)

    assert [step for _, step in run.on_disk] == [0, 20, 30, 40, 46, 47]


def test_what_a_killed_trainer_left_goes_when_it_goes_on(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.train(0, 25)
    (run.folder / "l0" / ".26.partial").mkdir()

    step = run.go_on()

    assert step == 20
    assert run.on_disk == [("l0", 0), ("l0", 10), ("l0", 20)]
    assert not (run.folder / "l0" / ".26.partial").exists()


def test_a_start_before_any_checkpoint_leaves_the_earlier_one_behind(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.train(0, 4)

    run.go_on()

    assert run.on_disk == [("l1", 0)]
    assert not (run.folder / "l0").exists()


def test_folders_that_are_no_versions_are_not_touched(tmp_path: Path) -> None:
    run = Run(tmp_path)
    (run.folder / "l0" / "notes").mkdir()
    shutil.copytree(run.folder / "l0" / "0", run.folder / "l0" / "0-copy")

    run.train(0, 10)

    assert (run.folder / "l0" / "notes").is_dir()
    assert (run.folder / "l0" / "0-copy").is_dir()
