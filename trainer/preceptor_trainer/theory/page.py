"""The page's tables, its numbers file and its figures, all from the same findings.

Drawn without pyplot: no global state, no display. Each figure carries the hash of its numbers.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from preceptor_trainer.theory import (
    bandits,
    feedback,
    improvement,
    length,
    likelihood,
    truncation,
    two_step,
)
from preceptor_trainer.theory.finding import Chart, Finding

MODULES = {
    "bandits": bandits,
    "improvement": improvement,
    "two_step": two_step,
    "length": length,
    "likelihood": likelihood,
    "feedback": feedback,
    "truncation": truncation,
}
STYLES = ("-", "--", "-.", ":")


def find() -> dict[str, Finding]:
    """Every finding, computed now."""
    return {name: module.finding().rounded() for name, module in MODULES.items()}


def read(path: Path) -> dict[str, Finding]:
    """The findings that `write` stored."""
    return {
        name: Finding(numbers=entry["numbers"], chart=Chart(**entry["chart"]))
        for name, entry in json.loads(path.read_text()).items()
    }


def write(findings: Mapping[str, Finding], docs: Path) -> None:
    """Numbers and figures, and the tables of the page where it exists."""
    folder = docs / "figures" / "theory"
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: asdict(finding) for name, finding in findings.items()}
    (folder / "numbers.json").write_text(json.dumps(stored, indent=1) + "\n")
    for name, finding in findings.items():
        draw(finding, folder / f"{name}.svg")
    page = docs / "explanation" / "theory.md"
    if page.exists():
        page.write_text(with_tables(page.read_text(), findings))


def with_tables(text: str, findings: Mapping[str, Finding]) -> str:
    """The page with what stands between its markers replaced."""
    for name, finding in findings.items():
        start, end = f"<!-- numbers: {name} -->", "<!-- end -->"
        pattern = re.escape(start) + r".*?" + re.escape(end)
        table = f"{start}\n{finding.table()}\n{end}"
        text, count = re.subn(pattern, lambda _, table=table: table, text, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"the page has {count} places for the numbers of {name!r}, not 1")
    return text


def draw(finding: Finding, path: Path) -> None:
    """One chart as SVG, the same bytes for the same numbers."""
    chart, mpl = finding.chart, cast(Any, matplotlib)
    with mpl.rc_context({"svg.hashsalt": "theory", "font.size": 9}):
        figure: Any = Figure(figsize=(5.4, 3.1), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for (name, line), style in zip(chart.lines.items(), STYLES, strict=False):
            axes.plot(chart.x, line, style, label=name)
        axes.set_xlabel(chart.x_label)
        axes.set_ylabel(chart.y_label)
        if max(map(max, chart.lines.values())) > 20:
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_ylim(1e-2, 200)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None, "Description": finding.chart_hash()})
