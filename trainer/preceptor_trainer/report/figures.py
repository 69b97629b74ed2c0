"""The report's pictures as PNG, for a README or a paper.

    figures/training_curve.png      solve rate, loss, length, entropy over the steps
    figures/worked_rollout.png      one rollout: credit, tokens, costs, each expert's tokens

Model output is drawn literally: matplotlib would read `$...$` as mathematics.
"""

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter

from preceptor_trainer.report import wording
from preceptor_trainer.report.charts import SMALL_CURVES, SOLVE_RATE, Curve, moving_mean, series
from preceptor_trainer.report.drawing import (
    COLOURS,
    GRID,
    INK,
    MUTED,
    new_figure,
    save,
    without_frame,
)
from preceptor_trainer.report.run_files import Run, WorkedRollout
from preceptor_trainer.report.tokens import Cell, Guess, cells
from preceptor_trainer.run.watching.metrics_log import MetricsLine

BLUE, ORANGE, COST = COLOURS[0], COLOURS[1], COLOURS[3]
MOST_TOKENS, PER_ROW = 48, 24
EXPERT_HEIGHT = 1.8
"""Room of one expert's three tokens, in the units of a row's vertical axis."""


def write_figures(run: Run, folder: Path) -> list[Path]:
    """Writes the pictures that the run has data for; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    if len(series(run.metrics, SOLVE_RATE.metric)[0]) > 1:
        written.append(save(_training_curve(run.metrics), folder / "training_curve.png"))
    if run.worked and run.worked.tokens:
        written.append(save(_worked_rollout(run.worked), folder / "worked_rollout.png"))
    return written


def _training_curve(metrics: Sequence[MetricsLine]) -> Any:
    figure = new_figure(9, 5.6)
    grid = figure.add_gridspec(
        2, 4, height_ratios=(2.1, 1), hspace=0.55, wspace=0.42, left=0.07, right=0.98,
        top=0.91, bottom=0.09,
    )  # fmt: skip
    _curve(figure.add_subplot(grid[0, :]), SOLVE_RATE, metrics, size=11)
    for column, curve in enumerate(SMALL_CURVES):
        _curve(figure.add_subplot(grid[1, column]), curve, metrics, size=9)
    return figure


def _curve(axes: Any, curve: Curve, metrics: Sequence[MetricsLine], size: int) -> None:
    steps, values = series(metrics, curve.metric)
    axes.plot(steps, values, "o", color=BLUE, alpha=0.3, markersize=size / 3, markeredgewidth=0)
    axes.plot(steps, moving_mean(values), color=BLUE, linewidth=size / 5)
    if curve.bounds:
        axes.set_ylim(*curve.bounds)
    axes.yaxis.set_major_formatter(FuncFormatter(_shown_by(curve)))
    axes.yaxis.get_major_locator().set_params(nbins=4)
    axes.xaxis.get_major_locator().set_params(nbins=4, integer=True)
    axes.set_title(f"{curve.title}\n{curve.note}", loc="left", fontsize=size - 1, color=INK)
    axes.tick_params(labelsize=size - 2, colors=MUTED)
    without_frame(axes, grid="y")


def _shown_by(curve: Curve) -> Callable[[float, int | None], str]:
    return lambda value, _: curve.show(value)


def _worked_rollout(worked: WorkedRollout) -> Any:
    drawn = cells(worked)[:MOST_TOKENS]
    rows = [drawn[start : start + PER_ROW] for start in range(0, len(drawn), PER_ROW)]
    columns = min(PER_ROW, len(drawn))
    names = [expert.name for expert in worked.experts]
    height = 2.3 + 0.86 * (len(names) - 1)
    figure = new_figure(max(7.0, 0.52 * columns + 1.5), height * len(rows) + 0.6)
    top = 1 - 0.5 / figure.get_figheight()
    grid = figure.add_gridspec(
        len(rows), 1, left=0.1, right=0.99, top=top, bottom=0.02, hspace=0.06
    )
    for i, row in enumerate(rows):
        _token_row(figure.add_subplot(grid[i]), row, columns, names)
    figure.text(
        0.01, 1 - 0.28 / figure.get_figheight(), _title(worked), fontsize=11, color=INK,
        parse_math=False,
    )  # fmt: skip
    return figure


def _title(worked: WorkedRollout) -> str:
    outcome = wording.outcome(worked.solved)
    whose = "each expert" if len(worked.experts) > 1 else "the expert"
    return (
        f"One attempt ({outcome}) at step {worked.step}: future credit (up: made more likely), "
        f"cost, and what {whose} would have written"
    )


def _token_row(axes: Any, row: Sequence[Cell], columns: int, names: Sequence[str]) -> None:
    """Top to bottom: credit around its zero line, token, cost, each expert's three best tokens."""
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(-2.75 - EXPERT_HEIGHT * (len(names) - 1), 2.1)
    axes.axis("off")
    axes.plot([-0.5, len(row) - 0.5], [1.45, 1.45], color=GRID, linewidth=1)
    labels = [(1.45, "credit"), (0.45, "student"), (-0.3, "cost")]
    shown = [_short(name) for name in names] if len(names) > 1 else ["expert"]
    labels += [(-1.55 - EXPERT_HEIGHT * i, name) for i, name in enumerate(shown)]
    for y, label in labels:
        axes.text(
            -0.7, y, label, ha="right", va="center", fontsize=8, color=MUTED, parse_math=False
        )
    for x, cell in enumerate(row):
        _token(axes, x, cell)


def _token(axes: Any, x: int, cell: Cell) -> None:
    height = 0.6 * cell.credit_bar / 100 * (-1 if cell.direction == "down" else 1)
    axes.bar(x, height, 0.62, bottom=1.45, color=ORANGE if cell.direction == "down" else BLUE)
    colour = INK if cell.labelled and cell.owned else MUTED
    _mono(axes, x, 0.45, cell.text, 13, colour, weight="bold")
    axes.bar(x, 0.5 * cell.cost_bar / 100, 0.62, bottom=-0.55, color=COST, alpha=0.75)
    for i, guess in enumerate(cell.guesses):
        if guess is not None:
            _guess(axes, x, -1.05 - EXPERT_HEIGHT * i, guess)


def _guess(axes: Any, x: int, top: float, guess: Guess) -> None:
    for rank, entry in enumerate(guess.entries):
        y = top - 0.58 * rank
        differs = rank == 0 and not entry.own
        colour = BLUE if differs else INK if entry.own else MUTED
        _mono(axes, x, y, entry.text, 9, colour, weight="bold" if differs else "normal")
        axes.text(x, y - 0.27, entry.prob, ha="center", va="center", fontsize=5.5, color=MUTED)


def _short(name: str) -> str:
    """A label beside a row is at most as wide as the picture's margin."""
    return name if len(name) <= 12 else name[:11] + "…"


def _mono(
    axes: Any, x: float, y: float, text: str, size: int, color: str, weight: str = "normal"
) -> None:
    axes.text(
        x, y, _drawable(text), ha="center", va="center", fontsize=size, color=color,
        weight=weight, family="DejaVu Sans Mono", parse_math=False,
    )  # fmt: skip


def _drawable(text: str) -> str:
    """At most four characters: a column is narrow."""
    text = unicodedata.normalize("NFC", text)
    return text if len(text) <= 4 else text[:3] + "…"
