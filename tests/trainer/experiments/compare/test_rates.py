"""Learning rates that an earlier comparison chose."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from preceptor_trainer.experiments.compare.analysis import analyse
from preceptor_trainer.experiments.compare.command import compare_command, with_rates_of
from preceptor_trainer.experiments.compare.method import RateFrom
from preceptor_trainer.experiments.compare.tables import result_table, search_table
from preceptor_trainer.recipes.methods import DISTIL, GRPO

SEARCHED = {"lr": 0.01, "lr_at_edge": True, "lr_search": {"0.001": 0.2, "0.01": 0.3}}
MIDDLE = SEARCHED | {"lr": 0.02, "lr_at_edge": False}
NOT_SEARCHED = SEARCHED | {"lr_at_edge": False, "lr_search": {}}


def written(path: Path, methods: Mapping[str, Mapping[str, object]]) -> Path:
    path.write_text(json.dumps({"comparison": "first", "budget": "20 steps", "methods": methods}))
    return path


def test_methods_take_the_rates_that_an_earlier_comparison_chose_and_say_where(tmp_path: Path):
    report = written(tmp_path / "compare.json", {"distil": SEARCHED, "grpo": MIDDLE})

    distil, grpo = with_rates_of(report, (DISTIL, GRPO))

    assert (distil.learning_rates, grpo.learning_rates) == ((0.01,), (0.02,))
    origin = "first, 20 steps a run"
    assert distil.rate_from == RateFrom(comparison=origin, at_edge=True)
    assert grpo.rate_from == RateFrom(comparison=origin, at_edge=False)


def test_the_report_names_where_a_rate_was_chosen_and_keeps_the_mark_of_the_edge(
    tmp_path, planned, method, result
):
    report = written(tmp_path / "other.json", {"a": SEARCHED, "b": MIDDLE})
    comparison = planned(*with_rates_of(report, (method("a"), method("b"))))
    final = [result(comparison, cell) for cell in comparison.final_cells({"a": 0.01, "b": 0.02})]

    analysis = analyse(comparison, [], final)

    assert [row[1] for row in result_table(analysis).rows] == ["0.01 (edge)", "0.02"]
    assert [row[1] for row in search_table(analysis).rows] == [
        "0.01 (edge), chosen by the search of first, 20 steps a run",
        "0.02, chosen by the search of first, 20 steps a run",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            json.dumps({"comparison": "c", "budget": "b", "methods": {"distil": SEARCHED}}),
            "has no grpo",
        ),
        ('{"methods": []}', r"not a compare\.json"),
        ("steps,loss", r"not a compare\.json"),
    ],
)
def test_a_file_without_a_methods_rate_is_named(tmp_path: Path, text: str, reason: str) -> None:
    report = tmp_path / "other.json"
    report.write_text(text)

    with pytest.raises(ValueError, match=f"rates_of: .*other.json.*{reason}"):
        with_rates_of(report, (DISTIL, GRPO))


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """Runs the command in another folder, on methods of the comparison `fast`."""
    monkeypatch.setenv("COLUMNS", "240")  # no broken lines in the messages
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(compare_command)
    return lambda *words: CliRunner().invoke(app, ["fast", "--methods", "distil,grpo", *words])


def test_rates_that_were_not_searched_are_refused(compare, tmp_path):
    report = written(tmp_path / "c.json", {"distil": SEARCHED, "grpo": NOT_SEARCHED})

    outcome = compare("--rates-of", str(report))

    assert outcome.exit_code == 2
    assert "c.json did not search the rates of grpo" in outcome.output
    assert not (tmp_path / "runs").exists()


def test_two_ways_to_choose_rates_are_refused(compare, tmp_path):
    report = written(tmp_path / "c.json", {"distil": SEARCHED, "grpo": MIDDLE})

    outcome = compare("--rates-of", str(report), "--no-search")

    assert outcome.exit_code == 2
    assert "cannot be used with --no-search" in outcome.output
    assert not (tmp_path / "runs").exists()
