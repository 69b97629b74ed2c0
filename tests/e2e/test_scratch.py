"""A run whose versions pass through a folder beside the run's, through real services."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from preceptor_trainer.learner.policy import passing_folder
from preceptor_trainer.run.watching.metrics_log import read_metrics

from .conftest import Running
from .test_resume import kill_after

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_a_killed_run_goes_on_as_one_that_keeps_its_versions_in_its_own_folder(
    finished: Running, other: Running
) -> None:
    scratch = other.home / "weights" / f"scratch-{other.run_dir.name}"  # where teachers may read
    recipe = {"recipe": "scratch:recipe", "cwd": Path(__file__).parent, "scratch": scratch}
    passing = passing_folder(scratch, other.run_dir / "weights")

    kill_after(other, 2, life=0, **recipe)
    assert [path.name for path in passing.glob("*/l0/[0-9]*")], "nothing has passed through it"
    code = other.start_trainer(**recipe).wait(timeout=300)

    assert code == 0, other.trainer_log()
    assert not passing.exists()
    with closing(sqlite3.connect(other.home / "preceptor.db")) as database:
        query = "SELECT version FROM weights WHERE manifest ->> '$.uri' LIKE ?"
        passed = database.execute(query, (f"{passing.as_uri()}/%",)).fetchall()
    steps = {int(version.rpartition("/")[2]) for (version,) in passed}
    assert steps == {1, 3, 5}
    undisturbed, resumed = read_metrics(finished.run_dir), read_metrics(other.run_dir)
    assert [m["loss"] for m in resumed] == [m["loss"] for m in undisturbed]
    assert all(m["with_teacher"] for m in resumed)
