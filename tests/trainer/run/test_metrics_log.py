import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from preceptor_trainer.run.metrics_log import MetricsLog, read_metrics


def write_steps(run_dir: Path, lineage: str, steps: range, loss: float) -> None:
    with MetricsLog(run_dir, first_step=steps.start) as log:
        for step in steps:
            log.write(step, lineage, {"loss": loss, "seconds/update": 0.5})


def test_a_step_is_on_disk_as_soon_as_it_is_written(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, first_step=0) as log:
        log.write(0, "a", {"loss": 1.5})

        assert read_metrics(tmp_path) == [{"step": 0, "lineage": "a", "loss": 1.5}]


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, first_step=0) as log:
        log.write(0, "a", {"loss": float("nan"), "cost": float("inf"), "reward": None})

    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text) == {
        "step": 0,
        "lineage": "a",
        "loss": None,
        "cost": None,
        "reward": None,
    }


def test_a_resumed_run_supersedes_every_later_step_of_the_earlier_life(tmp_path: Path) -> None:
    write_steps(tmp_path, "a", range(0, 6), loss=1.0)
    write_steps(tmp_path, "b", range(3, 5), loss=2.0)

    lines = read_metrics(tmp_path)

    assert [(line["step"], line["lineage"]) for line in lines] == [
        (0, "a"),
        (1, "a"),
        (2, "a"),
        (3, "b"),
        (4, "b"),
    ]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 8


def test_a_line_torn_by_a_kill_neither_counts_nor_spoils_the_next(tmp_path: Path) -> None:
    write_steps(tmp_path, "a", range(0, 2), loss=1.0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lin')

    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1]
    write_steps(tmp_path, "b", range(2, 3), loss=2.0)

    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1, 2]


def test_a_line_that_is_no_step_is_named_by_file_and_number(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n[1]\n')

    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: no line of metrics"):
        read_metrics(tmp_path)


def test_a_run_without_steps_has_no_metrics(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


def test_tensorboard_shows_the_surviving_lineage(tmp_path: Path) -> None:
    write_steps(tmp_path, "a", range(0, 4), loss=1.0)
    write_steps(tmp_path, "b", range(2, 3), loss=2.0)

    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()

    assert [(e.step, e.value) for e in board.Scalars("loss")] == [(0, 1.0), (1, 1.0), (2, 2.0)]
