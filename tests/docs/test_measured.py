"""The page of measured costs is what the committed results say."""

from __future__ import annotations

import json

import pytest
from docs_pages import ROOT

from reference import measured

RESULTS = ROOT / "benchmarks" / "results"


@pytest.mark.parametrize("name", list(measured.PARTS))
def test_a_part_has_a_result_a_benchmark_and_figures(name: str) -> None:
    found = json.loads((RESULTS / f"{name}.json").read_text())

    assert (ROOT / "benchmarks" / measured.PARTS[name][1]).is_file()
    assert list(measured.figures(found))
    assert ("2 cores" in measured.machine(found)) == ("machine" in found or "cpus" in found)


def test_a_figure_of_a_result_is_on_the_page_as_it_was_measured() -> None:
    found = json.loads((RESULTS / "scoring_engine.json").read_text())
    rate = found["figures"]["end to end, positions/s"]

    assert f"| end to end, positions/s | {rate:,.4g} |" in measured.page()


def test_numbers_are_found_however_deep_and_words_are_not_figures() -> None:
    found = {"figures": {"a": {"b": 1.5, "c": "text"}, "d": 20_000, "e": [1, 2], "f": True}}

    assert list(measured.figures(found)) == [("a, b", "1.5"), ("d", "20,000")]
