import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from preceptor_trainer.run.watching.metrics_log import MetricsLog, read_metrics


def write_steps(run_dir: Path, lineage: str, steps: range, loss: float) -> None:
    with MetricsLog(run_dir, first_step=steps.start) as log:
        for step in steps:
            log.write(step, lineage, {"loss": loss, "seconds/update": 0.5})


def test_a_step_is_on_disk_as_soon_as_it_is_written(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, first_step=0) as log:
        log.write(0, "a", {"loss": 1.5})

        assert read_metrics(tmp_path) == [{"step": 1, "lineage": "a", "loss": 1.5}]


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, first_step=0) as log:
        log.write(0, "a", {"loss": float("nan"), "cost": float("inf"), "reward": None})

    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text) == {
        "step": 1,
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
        (1, "a"),
        (2, "a"),
        (3, "a"),
        (4, "b"),
        (5, "b"),
    ]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 8


def test_a_line_torn_by_a_kill_neither_counts_nor_spoils_the_next(tmp_path: Path) -> None:
    write_steps(tmp_path, "a", range(0, 2), loss=1.0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lin')

    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    write_steps(tmp_path, "b", range(2, 3), loss=2.0)

    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]


def test_a_line_that_is_no_step_is_named_by_file_and_number(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n[1]\n')

    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: not a line of metrics"):
        read_metrics(tmp_path)


def test_a_run_without_steps_has_no_metrics(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


def test_tensorboard_shows_the_surviving_lineage(tmp_path: Path) -> None:
    write_steps(tmp_path, "a", range(0, 4), loss=1.0)
    write_steps(tmp_path, "b", range(2, 3), loss=2.0)

    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()

    assert [(e.step, e.value) for e in board.Scalars("loss/loss")] == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_tensorboard_has_groups_and_pass_at_k_before_and_after(tmp_path: Path) -> None:
    names = ("reward", "loss", "kl", "with_teacher", "dropped/timeout", "seconds/update", "late/x")
    with MetricsLog(tmp_path, first_step=0) as log:
        log.evaluation(0, {"pass@1": 0.25})
        log.write(0, "a", dict.fromkeys(names, 1.0))
        log.evaluation(1, {"pass@1": 0.5})

    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()

    assert sorted(board.Tags()["scalars"]) == [
        *("answers/dropped/timeout", "answers/late/x", "answers/with_teacher", "held_out/pass@1"),
        *("loss/kl", "loss/loss", "reward/reward", "seconds/update"),
    ]
    assert [(e.step, e.value) for e in board.Scalars("held_out/pass@1")] == [(0, 0.25), (1, 0.5)]


def test_an_older_versions_steps_are_counted_from_one_before_others_follow(tmp_path: Path) -> None:
    older = [{"step": i, "lineage": "l0", "loss": 1.0} for i in range(2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in older))

    write_steps(tmp_path, "l1", range(2, 3), loss=2.0)

    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]
