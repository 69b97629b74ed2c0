"""The outline of the task for SkyPilot, whose own parser is not among the packages of the tests."""

from __future__ import annotations

import yaml

from .compose_rules import ROOT

TASK = yaml.safe_load((ROOT / "deploy" / "skypilot.yaml").read_text())


def test_the_task_may_run_on_several_clouds_and_on_none_that_takes_its_disk_back() -> None:
    clouds = {choice["cloud"] for choice in TASK["resources"]["any_of"]}

    assert len(clouds) > 1
    assert TASK["resources"]["use_spot"] is False


def test_the_database_of_a_run_is_not_in_the_mounted_bucket() -> None:
    [mount] = TASK["file_mounts"]
    [train] = [line for line in TASK["run"].splitlines() if "preceptor train" in line]

    assert mount not in train
    assert "--run-dir ~/runs/$RUN" in train


def test_every_variable_of_the_task_has_a_value() -> None:
    words = (TASK["setup"] + TASK["run"]).replace('"', " ").replace("/", " ").split()
    used = {word.removeprefix("$") for word in words if word.startswith("$")}

    assert used == set(TASK["envs"])
