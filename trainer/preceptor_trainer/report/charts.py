"""The line charts of the pages: what is drawn of a run, and the shapes that a template fills in.

A chart is drawn as a stretched SVG (strokes do not scale) with its labels as ordinary text around
it, so that the text keeps its size from a phone to a wide screen.

Dimensions: N steps.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from preceptor_trainer.report.axis import Axis, Tick, enclosing, path
from preceptor_trainer.report.wording import percent
from preceptor_trainer.run.watching.metrics_log import MetricsLine

LEAST_WINDOW = 5


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a chart."""

    path: str
    """SVG path."""
    title: str = ""
    place: int | None = None
    """Among the methods of a comparison: decides the line's colour in every chart."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One or more lines over a common axis."""

    title: str
    note: str
    alternative: str
    """A sentence that describes the chart, for screen readers."""
    lines: tuple[Line, ...]
    dots: str = ""
    """SVG path of single values."""
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
    x_axis = Axis(marks=(steps[0], steps[-1]))
    y_axis = enclosing(*(curve.bounds or (min(values), max(values))), curve.num_intervals)
    return Chart(
        title=curve.title,
        note=_note(curve, values),
        alternative=_alternative(curve, steps, means),
        lines=(Line(path=path(zip(steps, means, strict=True), x_axis, y_axis)),),
        dots=_dots(zip(steps, values, strict=True), x_axis, y_axis),
        x_ticks=x_axis.ticks(lambda step: f"step {step}" if step == steps[-1] else str(step)),
        y_ticks=y_axis.ticks(curve.show),
    )


def _note(curve: Curve, values: Sequence[float]) -> str:
    if curve.metric != "loss" or min(values) >= 0:
        return curve.note
    # Readers who expect a cross-entropy would take a loss below 0 for a fault.
    return f"{curve.note}; below 0 where advantages, which have either sign, outweigh the rest"


def _dots(points: Iterable[tuple[float, float]], x_axis: Axis, y_axis: Axis) -> str:
    # a line of no length with a round cap is a dot that does not stretch with the picture
    return " ".join(f"M{x_axis.at(x):.2f} {100 - y_axis.at(y):.2f}h0" for x, y in points)


def _alternative(curve: Curve, steps: Sequence[int], means: Sequence[float]) -> str:
    first, last = (
        curve.show(v) for v in (means[min(window_of(len(means)), len(means)) - 1], means[-1])
    )
    return (
        f"{curve.title} over steps {steps[0]} to {steps[-1]}: "
        f"the moving mean goes from {first} to {last}."
    )
