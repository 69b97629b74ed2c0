"""A full disk: an error that names what could not be written, and nothing half-written counts."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from matplotlib.figure import Figure
from torch import nn

from preceptor_clients.kit.files import write_whole
from preceptor_trainer.deployment.failures import said_plainly
from preceptor_trainer.kit.disk import disk_errors
from preceptor_trainer.learner.policy import WeightFolder
from preceptor_trainer.model.weights import weights_of
from preceptor_trainer.report import drawing
from preceptor_trainer.run.checkpoint import (
    Position,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from preceptor_trainer.run.standing import LINEAGES, Lineage, Standing, remember
from preceptor_trainer.run.watching.metrics_log import MetricsLog, read_metrics

FULL = (errno.ENOSPC, errno.EFBIG)
MANY = {f"name/{number}": 0.5 for number in range(8000)}
"""More than the small disk takes."""


def position(step: int) -> Position:
    return Position(step=step, lineage="l0", weights=f"p/l0/{step}")


def names_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_that_does_not_fit_is_named_and_the_one_before_it_stays(
    small_disk: Path,
) -> None:
    save_checkpoint(small_disk, position(2), {"m": torch.zeros(10)})

    with pytest.raises(OSError, match="00000004") as refused:
        save_checkpoint(small_disk, position(4), {"m": torch.zeros(100_000)})

    assert refused.value.errno in FULL
    assert names_of(small_disk) == ["00000002"]
    found = latest_checkpoint(small_disk)
    assert found is not None
    assert load_checkpoint(found)[0] == position(2)


def test_weights_that_do_not_fit_are_named_and_not_published(small_disk: Path) -> None:
    folder = WeightFolder(small_disk, "p", "0" * 64)

    with pytest.raises(OSError, match=r"p/l0/1") as refused:
        folder.write(weights_of(nn.Linear(300, 300)), "p/l0/1", parent=None, checkpoint=True)

    assert refused.value.errno in FULL
    assert names_of(small_disk / "p" / "l0") == []
    assert folder.write(weights_of(nn.Linear(3, 3)), "p/l0/1", parent=None, checkpoint=True).files


def test_metrics_that_do_not_fit_are_named_and_no_torn_line_counts(small_disk: Path) -> None:
    with MetricsLog(small_disk, first_step=0) as log:
        log.write(0, "l0", {"loss": 1.0})

    with (
        pytest.raises(OSError, match=r"metrics\.jsonl") as refused,
        MetricsLog(small_disk, first_step=1) as log,
    ):
        log.write(1, "l0", MANY)

    assert refused.value.errno in FULL
    assert [line["step"] for line in read_metrics(small_disk)] == [1]


def test_tensorboard_that_does_not_fit_is_named_and_no_thread_prints_a_trace(
    small_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        pytest.raises(OSError, match="tfevents") as refused,
        MetricsLog(small_disk, first_step=0) as log,
    ):
        log.evaluation(0, MANY)

    assert refused.value.errno in FULL
    assert "Traceback" not in capfd.readouterr().err


def test_a_picture_or_page_that_does_not_fit_is_named(small_disk: Path) -> None:
    figure: Any = Figure(figsize=(8, 8))
    figure.subplots().imshow(np.random.default_rng(0).random((400, 400)))

    with pytest.raises(OSError, match=r"chart\.png"):
        drawing.save(figure, small_disk / "chart.png")
    (small_disk / "chart.png").unlink()
    with pytest.raises(OSError, match=r"report\.html"):
        write_whole(small_disk / "report.html", "x" * 200_000)

    assert names_of(small_disk) == []


def test_a_start_that_was_recorded_by_half_neither_counts_nor_spoils_the_next(
    tmp_path: Path,
) -> None:
    first = Lineage(name="l0", parent=None, from_step=0, steps=4)
    remember(tmp_path, first)
    with (tmp_path / LINEAGES).open("a") as file:
        file.write(json.dumps({"name": "l1"})[:-3])

    remember(tmp_path, Lineage(name="l2", parent="l0", from_step=2, steps=4))

    assert [one.name for one in Standing.read(tmp_path).lineages] == ["l0", "l2"]


def test_what_is_wrong_with_the_tensors_is_not_taken_for_the_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), disk_errors(tmp_path):
        raise RuntimeError("shapes differ")


def test_the_user_reads_what_is_full_what_is_kept_and_how_to_go_on(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        pytest.raises(typer.Exit) as ended,
        said_plainly(lambda: "runs/a keeps steps 1 to 2", "preceptor train again"),
    ):
        save_checkpoint(small_disk, position(4), {"m": torch.zeros(100_000)})

    said = capsys.readouterr().err
    assert ended.value.exit_code == 1
    assert "00000004" in said
    assert "runs/a keeps steps 1 to 2" in said
    assert "preceptor train again" in said
    assert "Traceback" not in said
