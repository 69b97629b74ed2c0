"""A run that cannot fit is refused with figures and keys before anything starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from preceptor_clients.contract.deployment import local_service
from preceptor_trainer.commands import run_file
from preceptor_trainer.commands.plan_file import plan_command
from preceptor_trainer.commands.room import RoomPlan, check_room, plan_of, show
from preceptor_trainer.commands.run_file import Place, train_file
from preceptor_trainer.deployment.local import SELF_TEACHER
from preceptor_trainer.learner.lora import Lora
from preceptor_trainer.run.needs.disk_plan import DiskPlan
from preceptor_trainer.run.needs.memory_plan import MemoryPlan, Part
from preceptor_trainer.runfile.building import Built, build
from preceptor_trainer.runfile.reading import read_run_file
from preceptor_trainer.runfile.teachers import LARGER_MODEL
from preceptor_trainer.sampling.server import SampledByServer
from preceptor_trainer.student import STUDENT_DIR

GB = 10**9


def plan_with(**fields: int) -> RoomPlan:
    """5 GB of memory and 12 GB of disk, on a machine with room for both."""
    parts = (
        Part(name="weights, float32", num_bytes=2 * GB),
        Part(
            name="activations",
            num_bytes=3 * GB,
            phases=("update",),
            keys=("optim.checkpointing",),
        ),
    )
    disk = DiskPlan(
        version_bytes=GB,
        state_bytes=2 * GB,
        num_versions=8,
        num_states=2,
        there_bytes=0,
        free_bytes=20 * GB,
    )
    plan = RoomPlan(
        run_dir=Path("runs/mine"),
        memory=MemoryPlan(device="cpu", parts=parts, longest_prompt=9),
        services={"self-teacher": GB},
        disk=disk,
        whole_bytes=20 * GB,
        free_bytes=10 * GB,
    )
    own = {name: value for name, value in fields.items() if name in ("whole_bytes", "free_bytes")}
    there = {name.removeprefix("disk_"): v for name, v in fields.items() if name not in own}
    return replace(plan, disk=replace(disk, **there), **own)


def built_of(folder: Path, more: str = "") -> Built:
    """A file with one self-teacher, which the folder then has, and what it makes."""
    (folder / "judge.py").write_text("def judge(response, row):\n    return 1.0\n")
    (folder / "rows.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    (folder / "run.toml").write_text(
        '[data]\ntrain = "rows.jsonl"\n[feedback]\nuse = "judge.py:judge"\n'
        f"[optim]\nprompts_per_step = 2\n[run]\nsteps = 3\n{more}"
    )
    file = read_run_file(folder / "run.toml")
    return build(file, folder, name="run", run_dir=folder / "runs" / "run")


def test_a_run_that_fits_begins_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    check_room(plan_with(), refuse=True)

    assert capsys.readouterr().err == ""


def test_too_little_memory_is_refused_with_figures_and_keys(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(typer.Exit):
        check_room(plan_with(whole_bytes=4 * GB), refuse=True)

    said = capsys.readouterr().err
    assert (
        "the trainer needs 5 GB (update) and its services 1 GB, but this machine has 4 GB" in said
    )
    assert "optim.checkpointing" in said
    assert "run.when_short" in said


def test_memory_that_others_hold_now_is_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    check_room(plan_with(free_bytes=3 * GB), refuse=True)

    assert "3 GB are free at the moment" in capsys.readouterr().err


def test_too_little_disk_is_refused_and_what_is_there_counts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    check_room(plan_with(disk_free_bytes=2 * GB, disk_there_bytes=10 * GB), refuse=True)
    with pytest.raises(typer.Exit):
        check_room(plan_with(disk_free_bytes=2 * GB, disk_there_bytes=9 * GB), refuse=True)

    said = capsys.readouterr().err
    assert "runs/mine will hold 12 GB of weights and checkpoints, and has room for 11 GB" in said
    assert "make room first, or keep fewer checkpoints (run.keep" in said


def test_what_is_short_is_only_said_where_the_file_wants_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    check_room(plan_with(whole_bytes=4 * GB, disk_free_bytes=GB), refuse=False)

    said = capsys.readouterr().err
    assert "memory: " in said
    assert "disk: " in said


def test_the_plan_of_a_file_lists_parts_phases_and_disk(tmp_path: Path) -> None:
    built_of(tmp_path)
    app = typer.Typer()
    app.command()(plan_command)

    result = CliRunner().invoke(app, [str(tmp_path / "run.toml")])

    assert result.exit_code == 0, result.output
    for words in ("memory of the trainer", "self-teacher", "activations", "state of a checkpoint"):
        assert words in result.output


def test_a_teacher_on_another_device_takes_none_of_the_memory_there(tmp_path: Path) -> None:
    built = built_of(tmp_path)
    elsewhere = local_service("other", LARGER_MODEL, {"model": str(STUDENT_DIR), "device": "meta"})
    here = local_service("near", LARGER_MODEL, {"model": str(STUDENT_DIR), "device": "cpu"})
    deployment = built.deployment.model_copy(update={"experts": {"far": elsewhere, "near": here}})

    plan = plan_of(replace(built.config, device="cpu"), tmp_path, deployment)

    assert set(plan.services) == {"near", "services"}


SHARED = SampledByServer(url="http://s:8000", kind="vllm", shared=True)


@pytest.mark.parametrize(
    ("changes", "teacher", "num_versions", "num_adapters"),
    [
        ({"lora": Lora(rank=2)}, SELF_TEACHER, 1, 4),
        ({"lora": Lora(rank=2)}, "mine.py:Teacher", 4, 0),
        ({"lora": Lora(rank=2), "sampler": lambda *_: None}, SELF_TEACHER, 4, 0),
        ({"lora": Lora(rank=2), "sampler": SHARED}, "mine.py:Teacher", 1, 4),
        ({}, SELF_TEACHER, 4, 0),
    ],
)
def test_versions_are_planned_as_adapters_where_nobody_needs_whole_ones(
    tmp_path: Path, changes: dict[str, Any], teacher: str, num_versions: int, num_adapters: int
) -> None:
    built = built_of(tmp_path)
    experts = {"self-teacher": local_service("self-teacher", teacher, {"model": str(STUDENT_DIR)})}
    deployment = built.deployment.model_copy(update={"experts": experts})

    plan = plan_of(replace(built.config, device="cpu", **changes), tmp_path, deployment)

    # Three steps and the first version, of which a teacher has its average.
    assert (plan.disk.num_versions, plan.disk.num_averages) == (num_versions, 1)
    assert plan.disk.num_adapters == num_adapters
    adapters = plan.disk.num_adapters * plan.disk.adapter_bytes
    states = plan.disk.num_states * plan.disk.state_bytes
    whole = (num_versions + plan.disk.num_averages) * plan.disk.version_bytes
    assert plan.disk.most_bytes == whole + adapters + states


def test_teachers_behind_another_gateway_take_no_memory_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_of(tmp_path)
    (tmp_path / "key").touch()  # without a key the command ends after the check
    seen: list[RoomPlan] = []
    monkeypatch.setattr(run_file, "check_room", lambda plan, refuse: seen.append(plan))
    place = Place(gateway="http://127.0.0.1:9", key_file=tmp_path / "key")

    with pytest.raises(typer.BadParameter, match="key"):
        train_file(tmp_path / "run.toml", [], place, None)

    assert [plan.services for plan in seen] == [{}]


def test_the_largest_part_is_shown_first() -> None:
    console = Console(record=True, width=120)

    show(plan_with(), console)

    text = console.export_text()
    assert text.index("activations") < text.index("weights, float32") < text.index("together")
