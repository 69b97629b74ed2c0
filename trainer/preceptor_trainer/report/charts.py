"""Geometry of the page's line charts, in per cent of the plotting area.

A chart is drawn as a stretched SVG (strokes do not scale) with its labels as ordinary text around
it, so that the text keeps its size from a phone to a wide screen.

Dimensions: N steps.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from preceptor_trainer.report.wording import percent
from preceptor_trainer.run.metrics_log import MetricsLine

LEAST_WINDOW = 5


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A label and where it stands, in per cent."""

    label: str
    at: float


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One curve over the steps."""

    title: str
    note: str
    alternative: str
    """The picture in a sentence, for those who do not see it."""
    dots: str
    """SVG path of the single steps."""
    line: str
    """SVG path of the moving mean."""
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Which metric is drawn, and how it is read."""

    metric: str
    title: str
    note: str
    show: Callable[[float], str]
    bounds: tuple[float, float] | None = None
    """Fixed limits of the axis, where the values have natural ones."""
    num_intervals: int = 3
    """About how many parts the axis is ruled into."""


SOLVE_RATE = Curve(
    metric="reward",
    title="Solve rate of the student's attempts",
    note="training problems, one dot a step",
    show=lambda v: percent(v, 0),
    bounds=(0.0, 1.0),
    num_intervals=4,
)
SMALL_CURVES = (
    Curve(metric="loss", title="Loss", note="as optimised", show=lambda v: f"{v:.3g}"),
    Curve(
        metric="response_length",
        title="Response length",
        note="tokens",
        show=lambda v: f"{v:.3g}",
    ),
    Curve(metric="entropy", title="Entropy", note="nats a token", show=lambda v: f"{v:.2g}"),
    Curve(
        metric="with_teacher",
        title="With a teacher",
        note="share of attempts",
        show=lambda v: percent(v, 0),
        bounds=(0.0, 1.0),
    ),
)


def series(metrics: Sequence[MetricsLine], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, without the steps that lack it."""
    found = [(line["step"], line[name]) for line in metrics if line.get(name) is not None]
    return [step for step, _ in found], [value for _, value in found]


def window_of(num_values: int) -> int:
    """Steps that a moving mean covers: a twentieth of the run."""
    return max(LEAST_WINDOW, num_values // 20)


def moving_mean(values_N: Sequence[float]) -> list[float]:
    """Mean over the last `window_of(N)` values; over fewer at the beginning."""
    window = window_of(len(values_N))
    means: list[float] = []
    for end in range(1, len(values_N) + 1):
        recent = values_N[max(0, end - window) : end]
        means.append(sum(recent) / len(recent))
    return means


def draw(curve: Curve, metrics: Sequence[MetricsLine]) -> Chart | None:
    """The chart of one metric; None where fewer than two steps have it."""
    steps, values = series(metrics, curve.metric)
    if len(values) < 2:
        return None
    means = moving_mean(values)
    y_ticks = ticks(*(curve.bounds or (min(values), max(values))), curve.num_intervals)
    low, high = y_ticks[0], y_ticks[-1]
    across = [100 * (s - steps[0]) / (steps[-1] - steps[0]) for s in steps]
    down = [_down(v, low, high) for v in values]
    return Chart(
        title=curve.title,
        note=curve.note,
        alternative=_alternative(curve, steps, means),
        # a line of no length with a round cap is a dot that does not stretch
        dots=" ".join(f"M{x:.2f} {y:.2f}h0" for x, y in zip(across, down, strict=True)),
        line="M"
        + "L".join(
            f"{x:.2f} {_down(m, low, high):.2f}" for x, m in zip(across, means, strict=True)
        ),
        x_ticks=(
            Tick(label=str(steps[0]), at=0),
            Tick(label=f"step {steps[-1]}", at=100),
        ),
        y_ticks=tuple(Tick(label=curve.show(t), at=100 - _down(t, low, high)) for t in y_ticks),
    )


def ticks(low: float, high: float, num_intervals: int) -> list[float]:
    """Round values that enclose `low` and `high`, in about `num_intervals` equal parts."""
    if high - low <= 1e-12 * max(abs(low), abs(high), 1.0):
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / num_intervals
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _down(value: float, low: float, high: float) -> float:
    return 100 * (high - value) / (high - low)


def _alternative(curve: Curve, steps: Sequence[int], means: Sequence[float]) -> str:
    first, last = (
        curve.show(v) for v in (means[min(window_of(len(means)), len(means)) - 1], means[-1])
    )
    return (
        f"{curve.title} over steps {steps[0]} to {steps[-1]}: "
        f"the moving mean goes from {first} to {last}."
    )
