"""The comparison's pictures: gains with their intervals, and every method's curves.

The curves are small multiples, a row per method: its own line in colour, those of all others in
grey on the same axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from matplotlib.ticker import MaxNLocator, PercentFormatter

from preceptor_trainer.report.axis import ROUND
from preceptor_trainer.report.drawing import COLOURS, DPI, new_figure, save, without_frame

Points: TypeAlias = Sequence[tuple[float, float]]

CURVES_DPI: Final = 96
GREY: Final = "#9aa5af"
OTHERS: Final = "#d3d9de"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A column of the curves: one line per method, over axes that all rows share."""

    title: str
    lines: Mapping[str, Points]
    """By method."""
    begun_with: Mapping[str, Points]
    """The same of the student before training; empty where the line itself begins there."""
    shares: bool
    """Whether values are shares, shown in per cent."""
    doubling: bool = False
    """Whether x doubles from mark to mark."""


def draw_gains(analysis: Mapping[str, Any], path: Path) -> None:
    """Gains with corrected intervals, one panel per k."""
    names = [f"pass@{k}" for k in analysis["ks"]]
    titles = [method["title"] for method in analysis["methods"].values()]
    figure, axes = _figure(4.4 * len(names) + 1.6, 0.42 * len(titles) + 1.2, 1, len(names))
    for axis, name in zip(axes[0], names, strict=True):
        _forest(axis, name, analysis["gains"][name])
    axes[0][0].set_yticks(range(len(titles)), titles, parse_math=False)
    axes[0][0].invert_yaxis()
    _save(figure, path, DPI)


def draw_curves(analysis: Mapping[str, Any], path: Path) -> None:
    """Pass@k before and after, learning curves, length and entropy, a row for each method."""
    methods = analysis["methods"]
    columns = panels(methods)
    figure, axes = _figure(
        2.6 * len(columns) + 1.4, 1.15 * len(methods) + 0.9, len(methods), len(columns)
    )
    for row, (name, method) in enumerate(methods.items()):
        for axis, panel in zip(axes[row], columns, strict=True):
            _panel(axis, panel, name, COLOURS[row % len(COLOURS)])
        axes[row][0].set_ylabel(
            method["title"],
            labelpad=12,
            rotation=0,
            ha="right",
            va="center",
            fontsize=9,
            parse_math=False,
        )
    for axis, panel in zip(axes[0], columns, strict=True):
        axis.set_title(panel.title, loc="left", fontsize=9)
    figure.align_ylabels(axes[:, 0])
    _save(figure, path, CURVES_DPI)


def panels(methods: Mapping[str, Mapping[str, Any]]) -> list[Panel]:
    """Pass@k, and the columns in which some method has a line of at least two points."""
    at_k = {
        end: {m: _zip(v["pass_at_k"], end) for m, v in methods.items()}
        for end in ("before", "after")
    }
    curve = {
        unit: {m: [(p[unit], p["pass@1"]) for p in v["curve"]] for m, v in methods.items()}
        for unit in ("step", "seconds")
    }
    by_step = {
        what: {m: _steps(v["training"][what]) for m, v in methods.items()}
        for what in ("response_length", "entropy")
    }
    columns = [
        Panel(
            title="pass@k against k\ndashed: before",
            lines=at_k["after"],
            begun_with=at_k["before"],
            shares=True,
            doubling=True,
        ),
        Panel(title="probe pass@1\nagainst steps", lines=curve["step"], begun_with={}, shares=True),
        Panel(
            title="probe pass@1\nagainst seconds",
            lines=curve["seconds"],
            begun_with={},
            shares=True,
        ),
        Panel(
            title="response length in tokens\nagainst steps",
            lines=by_step["response_length"],
            begun_with={},
            shares=False,
        ),
        Panel(
            title="entropy in nats a token\nagainst steps",
            lines=by_step["entropy"],
            begun_with={},
            shares=False,
        ),
    ]
    return columns[:1] + [c for c in columns[1:] if any(len(p) > 1 for p in c.lines.values())]


def _zip(curve: Mapping[str, Sequence[float]], end: str) -> Points:
    return list(zip(curve["k"], curve[end], strict=True))


def _steps(values: Sequence[float | None]) -> Points:
    return [(float(step), value) for step, value in enumerate(values) if value is not None]


def _panel(axis: Any, panel: Panel, own: str, colour: str) -> None:
    for name, points in panel.lines.items():
        if name != own:
            _line(axis, points, color=OTHERS, linewidth=0.8, zorder=2)
    _line(
        axis, panel.begun_with.get(own, ()), color=colour, linewidth=1.2, linestyle="--", zorder=3
    )
    _line(axis, panel.lines[own], color=colour, linewidth=2, zorder=4)
    if panel.doubling:
        _double(axis, [k for k, _ in panel.lines[own]])
    else:
        axis.xaxis.set_major_locator(MaxNLocator(4, steps=ROUND, integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(3, steps=ROUND))
    if panel.shares:
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    without_frame(axis, grid="both")
    axis.tick_params(labelsize=7.5)


def _line(axis: Any, points: Points, **style: Any) -> None:
    axis.plot([x for x, _ in points], [y for _, y in points], **style)


def _double(axis: Any, ks: Sequence[float]) -> None:
    """A logarithmic axis that names every second of its marks."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(ks[::2], [f"{k:g}" for k in ks[::2]])
    axis.minorticks_off()


def _forest(axis: Any, name: str, gains: Mapping[str, Any]) -> None:
    axis.axvline(0, color=GREY, linewidth=1)
    for place, gain in enumerate(gains.values()):
        low, mean, high = (100 * v for v in (gain["low"], gain["estimate"]["mean"], gain["high"]))
        colour = COLOURS[0] if gain["claimed"] else GREY
        axis.plot([low, high], [place, place], color=colour, linewidth=2, alpha=0.7)
        axis.plot([mean], [place], "o", color=colour, markersize=6)
    axis.set_title(f"gain in {name}, points", loc="left", fontsize=10)
    without_frame(axis, grid="x")
    axis.tick_params(labelsize=9)


def _figure(width: float, height: float, rows: int, columns: int) -> tuple[Any, Any]:
    """A figure of so many inches, and its axes row by row.

    A column has its axes in common; a single row has the one that goes up.
    """
    figure = new_figure(width, height)
    share_y = "row" if rows == 1 else "col"
    return figure, figure.subplots(rows, columns, sharex="col", sharey=share_y, squeeze=False)


def _save(figure: Any, path: Path, dpi: int) -> None:
    figure.tight_layout()
    save(figure, path, dpi)
