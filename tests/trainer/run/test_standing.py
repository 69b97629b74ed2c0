"""Where a run's folder stands, and with which settings it may go on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from preceptor_trainer.recipes.quickstart import quickstart
from preceptor_trainer.run.config import describe
from preceptor_trainer.run.standing import (
    CannotExtend,
    Lineage,
    OtherSettings,
    Standing,
    check_settings,
    differences,
    extended,
    remember,
    set_result_aside,
    steps_to_take,
)


@pytest.fixture
def config():
    return quickstart(steps=3, held_out=2)


@pytest.fixture
def folder(tmp_path: Path, config) -> Path:
    """A run of three steps that has begun and has a checkpoint."""
    (tmp_path / "config.json").write_text(json.dumps(describe(config)))
    (tmp_path / "checkpoints" / "00000003").mkdir(parents=True)
    remember(tmp_path, Lineage(name="l0", parent=None, from_step=0, steps=3))
    return tmp_path


def finish(folder: Path, steps: int) -> None:
    (folder / "summary.json").write_text(json.dumps({"steps": steps}))
    (folder / "evaluations").mkdir(exist_ok=True)
    (folder / "evaluations" / "after.json").write_text(str(steps))


def extend(folder: Path, name: str, steps: int) -> None:
    remember(folder, Lineage(name=name, parent="l0", from_step=3, steps=steps))


def test_every_setting_that_differs_is_named_with_both_values(config, folder):
    other = describe(quickstart(seed=7, steps=40, held_out=2))

    with pytest.raises(OtherSettings) as refused:
        check_settings(describe(config), other, folder, may_grow=False)

    assert "steps: begun with 3, now 40" in str(refused.value)
    assert "seed: begun with 0, now 7" in str(refused.value)


def test_a_setting_that_only_a_newer_version_has_is_no_difference(config):
    now = describe(config)
    begun = {name: value for name, value in now.items() if name != "timeout_s"}

    assert differences(begun, now) == []


def test_more_steps_are_allowed_to_a_run_that_may_grow_and_fewer_never(config, folder):
    begun, longer, shorter = (describe(extended(config, n)) for n in (3, 5, 2))

    check_settings(begun, longer, folder, may_grow=True)
    with pytest.raises(OtherSettings, match="steps: begun with 3, now 2"):
        check_settings(begun, shorter, folder, may_grow=True)


def test_an_extended_runs_rate_falls_to_zero_at_the_new_end(config):
    longer = extended(config, 6)

    assert (longer.steps, longer.optimiser.decay_until) == (6, 6)
    rates = [longer.optimiser.rate_at(step) for step in range(3, 6)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0


def test_a_rate_that_lasts_longer_than_the_extension_stays(config):
    lasting = replace(config, optimiser=replace(config.optimiser, decay_until=100))

    assert extended(lasting, 6).optimiser == lasting.optimiser


def test_a_finished_run_is_extended_from_where_it_ended(config, folder):
    finish(folder, 3)

    assert steps_to_take(Standing.read(folder), config, 2) == 5


def test_an_unfinished_run_is_not_extended(config, folder):
    with pytest.raises(CannotExtend, match="not finished yet"):
        steps_to_take(Standing.read(folder), config, 2)


def test_a_run_without_checkpoints_is_not_extended(config, folder):
    finish(folder, 3)
    (folder / "checkpoints" / "00000003").rmdir()

    with pytest.raises(CannotExtend, match="checkpoints are gone"):
        steps_to_take(Standing.read(folder), config, 2)


@pytest.mark.parametrize("aside", [False, True])
def test_a_killed_extension_goes_on_by_the_same_command_and_without_it(config, folder, aside):
    finish(folder, 3)
    extend(folder, "l1", 5)
    if aside:
        set_result_aside(folder, 5)

    standing = Standing.read(folder)

    assert not standing.finished
    assert steps_to_take(standing, config, 2) == 5
    assert steps_to_take(standing, config, None) == 5
    with pytest.raises(CannotExtend, match="extension by 2 steps is not finished"):
        steps_to_take(standing, config, 4)


def test_a_second_extension_adds_to_the_first(config, folder):
    extend(folder, "l1", 5)
    finish(folder, 5)

    assert steps_to_take(Standing.read(folder), config, 2) == 7


def test_the_earlier_result_keeps_a_name_with_its_steps(folder):
    finish(folder, 3)

    set_result_aside(folder, 5)
    set_result_aside(folder, 5)

    assert (folder / "evaluations" / "after-3.json").read_text() == "3"
    assert json.loads((folder / "summary-3.json").read_text()) == {"steps": 3}
    assert not (folder / "evaluations" / "after.json").exists()


def test_a_result_of_all_steps_stays(folder):
    finish(folder, 3)

    set_result_aside(folder, 3)

    assert (folder / "evaluations" / "after.json").exists()


def test_settings_of_an_older_version_are_not_believed(folder):
    (folder / "checkpoints" / "lineages.jsonl").unlink()
    older = {"lineage": "l0", "parent": None, "from_step": 0}
    (folder / "checkpoints" / "lives.jsonl").write_text(json.dumps(older) + "\n")

    standing = Standing.read(folder)

    assert [one.name for one in standing.lineages] == ["l0"]
    assert standing.begun is None


def test_a_torn_last_line_of_the_lineages_is_ignored(folder):
    with (folder / "checkpoints" / "lineages.jsonl").open("a") as file:
        file.write('{"name": "l1", "par')

    assert [one.name for one in Standing.read(folder).lineages] == ["l0"]
