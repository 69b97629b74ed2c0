"""An axis of the pages' charts: round marks, and places in per cent of the plotting area.

axis = enclosing(0.31, 0.58, num_intervals=3)       # from 0.3 to 0.6
axis.at(0.45)                                       # 50.0
axis.ticks("{:.1f}".format)                         # labels and their places
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

ROUND = (1, 2, 2.5, 5, 10)
"""Distances between marks, up to a power of ten."""


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A label and its place, in per cent."""

    label: str
    at: float


@dataclass(frozen=True, kw_only=True)
class Axis:
    """From its first mark to its last."""

    marks: tuple[float, ...]
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Place of a value, in per cent from the first mark; 0 where all marks are one."""
        low, here, high = map(self._scale, (self.marks[0], value, self.marks[-1]))
        return 100 * (here - low) / ((high - low) or 1)

    def ticks(self, show: Callable[[float], str]) -> tuple[Tick, ...]:
        """Every mark with its label."""
        return tuple(Tick(label=show(mark), at=self.at(mark)) for mark in self.marks)

    def _scale(self, value: float) -> float:
        return math.log2(value) if self.logarithmic else value


def enclosing(low: float, high: float, num_intervals: int) -> Axis:
    """An axis with round marks that enclose both values, in about `num_intervals` equal parts."""
    largest = max(abs(low), abs(high))
    if high - low <= 1e-12 * largest:
        # a constant curve needs an axis too: a tenth of its value to each side
        low, high = low - (largest or 1.0) / 10, high + (largest or 1.0) / 10
    marks = MaxNLocator(num_intervals, steps=ROUND, min_n_ticks=1).tick_values(low, high)
    # the locator adds up its steps: what should be 0 may be 1e-17, and would be shown as "-0"
    noise = 1e-9 * (high - low)
    return Axis(marks=tuple(0.0 if abs(mark) < noise else float(mark) for mark in marks))


def path(points: Iterable[tuple[float, float]], x_axis: Axis, y_axis: Axis) -> str:
    """The SVG path through some values; an SVG counts from the top."""
    return "M" + "L".join(f"{x_axis.at(x):.2f} {100 - y_axis.at(y):.2f}" for x, y in points)
