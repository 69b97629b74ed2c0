"""Cells are kept, and refused where they belong to something else."""

import json
import os
from dataclasses import replace

import pytest

from preceptor_trainer.experiments.compare.budget import Budget
from preceptor_trainer.experiments.compare.cells import (
    CellStore,
    describe_service,
    difference,
    identity,
)
from preceptor_trainer.experiments.compare.runner import before_key, claim
from preceptor_trainer.experiments.compare.services import larger_model, self_teacher


def test_a_stored_cell_comes_back_as_it_was(tmp_path, comparison, result):
    store, cell = CellStore(tmp_path), comparison.search_cells()[0]
    made = result(comparison, cell)

    store.save(made)

    assert store.load(cell, identity(comparison, cell)) == made


def test_a_cell_of_a_version_that_did_not_measure_whole_runs_comes_back(
    tmp_path, comparison, result
):
    store, cell = CellStore(tmp_path), comparison.search_cells()[0]
    store.save(result(comparison, cell, wall_seconds=12.5))
    (path,) = (tmp_path / "cells").iterdir()
    value = json.loads(path.read_text())
    del value["wall_seconds"]
    path.write_text(json.dumps(value))

    loaded = store.load(cell, identity(comparison, cell))

    assert loaded == result(comparison, cell)


def test_a_cell_that_is_not_there_is_missing(tmp_path, comparison):
    cell = comparison.search_cells()[0]

    assert CellStore(tmp_path).load(cell, identity(comparison, cell)) is None


def test_a_cell_of_another_budget_is_refused_by_name(tmp_path, comparison, result):
    store, cell = CellStore(tmp_path), comparison.search_cells()[0]
    store.save(result(comparison, cell))
    longer = replace(comparison, budget=Budget(unit="steps", amount=3))

    with pytest.raises(ValueError, match=r"config.steps = 2, not 3"):
        store.load(cell, identity(longer, cell))


def test_a_cell_of_another_student_is_refused(tmp_path, comparison, result):
    store, cell = CellStore(tmp_path), comparison.search_cells()[0]
    store.save(result(comparison, cell))
    (comparison.setting.model / "model.safetensors").write_bytes(b"other weights")

    with pytest.raises(ValueError, match=r"config.model"):
        store.load(cell, identity(comparison, cell))


def test_the_first_difference_is_named_by_its_path():
    assert difference({"a": {"b": [1]}}, {"a": {"b": [1]}}) is None
    assert difference({"a": {"b": 1}}, {"a": {"b": 2}}) == "a.b = 1, not 2"
    assert difference({}, {"a": 1}) == "a = None, not 1"


def test_a_run_that_was_begun_otherwise_does_not_go_on(tmp_path, comparison):
    cell = comparison.search_cells()[0]
    claim(tmp_path / "run", identity(comparison, cell))
    claim(tmp_path / "run", identity(comparison, cell))
    longer = replace(comparison, budget=Budget(unit="steps", amount=3))

    with pytest.raises(ValueError, match=r"was begun with config.steps = 2, not 3"):
        claim(tmp_path / "run", identity(longer, cell))


def test_a_teachers_model_goes_by_its_bytes(tmp_path):
    described = []
    for name, weights in (("here", b"1"), ("there", b"1"), ("other", b"2")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(weights)
        described.append(describe_service(larger_model(folder)))

    here, there, other = described
    assert difference(here, there) is None
    assert "options.model" in (difference(here, other) or "")


def test_a_service_without_a_model_has_nothing_of_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"somebody's")
    monkeypatch.chdir(tmp_path)

    described = describe_service(self_teacher())

    assert "model" not in described["options"]


def test_a_model_that_changes_between_two_cells_changes_their_identity(comparison):
    cell, weights = comparison.search_cells()[0], comparison.setting.model / "model.safetensors"
    before = identity(comparison, cell)
    stat = weights.stat()
    weights.write_bytes(b"WEIGHTS")
    # a second later, and of the same size
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))

    assert "config.model" in (difference(before, identity(comparison, cell)) or "")


def test_methods_of_one_seed_share_the_evaluation_before_and_other_seeds_do_not(comparison):
    a, b, c, d = comparison.final_cells({"a": 1e-4, "b": 2e-4})

    assert before_key(comparison, a) == before_key(comparison, b)
    assert before_key(comparison, a) != before_key(comparison, c)
    assert before_key(comparison, c) == before_key(comparison, d)
