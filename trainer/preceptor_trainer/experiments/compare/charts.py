"""Geometry of the comparison's charts: one line per method, in per cent of the plotting area."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from preceptor_trainer.report.charts import Tick, ticks
from preceptor_trainer.report.wording import percent

Points: TypeAlias = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One method's line."""

    title: str
    place: int
    """Of the method in the comparison: decides its colour in every chart."""
    path: str
    """SVG path."""


@dataclass(frozen=True, kw_only=True)
class MultiChart:
    """Several lines over one axis."""

    title: str
    note: str
    alternative: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """An interval around 0, in per cent of a common axis."""

    title: str
    place: int
    at: float
    left: float
    width: float
    claimed: bool
    text: str


def multi_chart(
    title: str,
    note: str,
    series: Mapping[str, Points],
    *,
    show_x: Callable[[float], str],
    show_y: Callable[[float], str],
    logarithmic: bool = False,
) -> MultiChart | None:
    """A chart of all methods that have at least two points; None where none has."""
    drawn = {name: points for name, points in series.items() if len(points) > 1}
    if not drawn:
        return None
    scale = math.log2 if logarithmic else float
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for points in drawn.values() for _, y in points]
    y_ticks = ticks(min(ys), max(ys), 4)
    left, right = scale(min(xs)), scale(max(xs))
    low, high = y_ticks[0], y_ticks[-1]
    places = {name: place for place, name in enumerate(series)}
    return MultiChart(
        title=title,
        note=note,
        alternative=_alternative(title, drawn, show_y),
        lines=tuple(
            Line(
                title=name,
                place=places[name],
                path="M"
                + "L".join(
                    f"{100 * (scale(x) - left) / ((right - left) or 1):.2f} "
                    f"{100 * (high - y) / (high - low):.2f}"
                    for x, y in points
                ),
            )
            for name, points in drawn.items()
        ),
        x_ticks=(Tick(label=show_x(min(xs)), at=0), Tick(label=show_x(max(xs)), at=100)),
        y_ticks=tuple(Tick(label=show_y(t), at=100 * (t - low) / (high - low)) for t in y_ticks),
    )


def charts(analysis: Mapping[str, Any]) -> list[MultiChart]:
    """Pass@k, learning curves against steps, time and tokens, and what training looked like."""
    methods = {values["title"]: values for values in analysis["methods"].values()}
    curves = {title: values["curve"] for title, values in methods.items()}
    drawn = [
        multi_chart(
            "Pass@k after training",
            "share of held-out problems solved in k tries; k doubles from left to right",
            {t: _zip(m["pass_at_k"]["k"], m["pass_at_k"]["after"]) for t, m in methods.items()},
            show_x=lambda k: f"k = {k:g}",
            show_y=_share,
            logarithmic=True,
        ),
        *(
            multi_chart(
                f"Learning curve against {unit}",
                "pass@1 on the probe problems, mean over seeds",
                {t: [(p[key], p["pass@1"]) for p in c] for t, c in curves.items()},
                show_x=show_x,
                show_y=_share,
            )
            for key, unit, show_x in (
                ("step", "steps", _step),
                ("seconds", "wall-clock", _seconds),
                ("tokens", "sampled tokens", _whole),
            )
        ),
        *(
            multi_chart(
                title,
                note,
                {t: _steps(m["training"][name]) for t, m in methods.items()},
                show_x=_step,
                show_y=show_y,
            )
            for name, title, note, show_y in (
                ("response_length", "Response length", "tokens", _three_digits),
                ("entropy", "Entropy", "nats a token", _two_digits),
                ("with_teacher", "With a teacher", "share of rollouts", _share),
            )
        ),
    ]
    return [chart for chart in drawn if chart is not None]


def bars(analysis: Mapping[str, Any], name: str) -> tuple[list[Bar], list[Tick]]:
    """Gains of all methods on one axis, with their corrected intervals."""
    gains = analysis["gains"][name]
    bounds = [gains[m][b] for m in gains for b in ("low", "high")]
    y_ticks = ticks(min(0.0, *bounds), max(0.0, *bounds), 5)
    low, high = y_ticks[0], y_ticks[-1]

    def at(value: float) -> float:
        return 100 * (value - low) / (high - low)

    rows = [
        Bar(
            title=analysis["methods"][method]["title"],
            place=place,
            at=at(gain["estimate"]["mean"]),
            left=at(gain["low"]),
            width=at(gain["high"]) - at(gain["low"]),
            claimed=gain["claimed"],
            text=f"{gain['estimate']['mean'] * 100:+.1f}",
        )
        for place, (method, gain) in enumerate(gains.items())
    ]
    return rows, [Tick(label=f"{t * 100:+.0f}" if t else "0", at=at(t)) for t in y_ticks]


def _share(value: float) -> str:
    return percent(value, 0)


def _step(value: float) -> str:
    return f"step {value:.0f}"


def _seconds(value: float) -> str:
    return f"{value:.0f} s"


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _three_digits(value: float) -> str:
    return f"{value:.3g}"


def _two_digits(value: float) -> str:
    return f"{value:.2g}"


def _steps(values: Sequence[float | None]) -> Points:
    return [(float(step), value) for step, value in enumerate(values) if value is not None]


def _zip(xs: Sequence[float], ys: Sequence[float]) -> Points:
    return list(zip(xs, ys, strict=True))


def _alternative(title: str, drawn: Mapping[str, Points], show_y: Callable[[float], str]) -> str:
    ends = ", ".join(
        f"{name} from {show_y(points[0][1])} to {show_y(points[-1][1])}"
        for name, points in drawn.items()
    )
    return f"{title}: {ends}."
