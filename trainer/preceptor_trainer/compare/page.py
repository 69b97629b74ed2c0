"""The comparison's report: `compare.html`, `compare.md`, `compare.json` and one picture.

Like a run's page it is one file that runs no script and loads nothing, in the same style.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from preceptor_trainer.compare.charts import bars, charts
from preceptor_trainer.compare.tables import claims, markdown, tables

COLOURS: Final = (
    "#0b63b0", "#b8500b", "#2e7d32", "#6d5aa8", "#c2185b", "#00838f",
    "#8d6e00", "#5d4037", "#546e7a", "#d32f2f", "#7cb342", "#000000",
)  # fmt: skip
"""Of the methods, in the comparison's order."""
DPI: Final = 160


def write_comparison(analysis: Mapping[str, Any], folder: Path) -> Path:
    """Writes the report in all its forms; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "compare.json", json.dumps(analysis, allow_nan=False) + "\n")
    _write(folder / "compare.md", markdown(analysis))
    _write(folder / "compare.html", render(analysis))
    _draw(analysis, folder / "compare.png")
    return folder / "compare.html"


def render(analysis: Mapping[str, Any]) -> str:
    """The page as text."""
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("preceptor_trainer.compare"), PackageLoader("preceptor_trainer.report")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    forest = {f"pass@{k}": bars(analysis, f"pass@{k}") for k in analysis["ks"]}
    return environment.get_template("compare.html.j2").render(
        analysis=analysis,
        claims=claims(analysis),
        forest=forest,
        charts=charts(analysis),
        tables=tables(analysis),
        colours=COLOURS,
        titles=[method["title"] for method in analysis["methods"].values()],
        notes=[(m["title"], m["note"]) for m in analysis["methods"].values() if m["note"]],
    )


def _draw(analysis: Mapping[str, Any], path: Path) -> None:
    """Gains with corrected intervals, one panel per k."""
    names = [f"pass@{k}" for k in analysis["ks"]]
    titles = [method["title"] for method in analysis["methods"].values()]
    figure: Any = Figure(figsize=(4.4 * len(names) + 1.6, 0.42 * len(titles) + 1.2))
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        _forest(axis, name, analysis["gains"][name])
    axes[0].set_yticks(range(len(titles)), titles, parse_math=False)
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=DPI, facecolor="white", metadata={"Software": None})


def _forest(axis: Any, name: str, gains: Mapping[str, Any]) -> None:
    axis.axvline(0, color="#9aa5af", linewidth=1)
    for place, gain in enumerate(gains.values()):
        low, mean, high = (100 * v for v in (gain["low"], gain["estimate"]["mean"], gain["high"]))
        colour = COLOURS[0] if gain["claimed"] else "#9aa5af"
        axis.plot([low, high], [place, place], color=colour, linewidth=2, alpha=0.7)
        axis.plot([mean], [place], "o", color=colour, markersize=6)
    axis.set_title(f"gain in {name}, points", loc="left", fontsize=10)
    axis.grid(axis="x", color="#e4e7eb", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(length=0, labelsize=9)
    for side in axis.spines.values():
        side.set_visible(False)


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
