"""The comparison's charts: one line per method, and the gains with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from preceptor_trainer.report.axis import Axis, Tick, enclosing, path
from preceptor_trainer.report.charts import Chart, Line
from preceptor_trainer.report.wording import percent

Points: TypeAlias = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """An interval around 0, in per cent of a common axis."""

    title: str
    at: float
    left: float
    width: float
    claimed: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class Forest:
    """The gains in one number."""

    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    zero: float
    """Place of no gain, in per cent."""


def method_chart(
    title: str,
    note: str,
    series: Mapping[str, Points],
    *,
    show_x: Callable[[float], str],
    show_y: Callable[[float], str],
    bounds: tuple[float, float] | None = None,
    logarithmic: bool = False,
) -> Chart | None:
    """A chart of all methods that have at least two points; None where none has."""
    drawn = {name: points for name, points in series.items() if len(points) > 1}
    if not drawn:
        return None
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for points in drawn.values() for _, y in points]
    x_axis = Axis(marks=(min(xs), max(xs)), logarithmic=logarithmic)
    y_axis = enclosing(*(bounds or (min(ys), max(ys))), 4)
    return Chart(
        title=title,
        note=note,
        alternative=_alternative(title, drawn, show_y),
        # the place is counted over all methods: one without a line leaves its colour unused
        lines=tuple(
            Line(title=name, place=place, path=path(series[name], x_axis, y_axis))
            for place, name in enumerate(series)
            if name in drawn
        ),
        x_ticks=x_axis.ticks(show_x),
        y_ticks=y_axis.ticks(show_y),
    )


def charts(analysis: Mapping[str, Any]) -> list[Chart]:
    """Pass@k, learning curves against steps, time and tokens, and what training looked like."""
    methods = {values["title"]: values for values in analysis["methods"].values()}
    curves = {title: values["curve"] for title, values in methods.items()}
    drawn = [
        method_chart(
            "Pass@k after training",
            "share of held-out problems solved in k tries; k doubles from left to right",
            {t: _zip(m["pass_at_k"]["k"], m["pass_at_k"]["after"]) for t, m in methods.items()},
            show_x=lambda k: f"k = {k:g}",
            show_y=_share,
            logarithmic=True,
        ),
        *(
            method_chart(
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
            method_chart(
                title,
                note,
                {t: _steps(m["training"][name]) for t, m in methods.items()},
                show_x=_step,
                show_y=show_y,
                bounds=bounds,
            )
            for name, title, note, show_y, bounds in (
                ("response_length", "Response length", "tokens", _three_digits, None),
                ("entropy", "Entropy", "nats a token", _two_digits, None),
                ("with_teacher", "With a teacher", "share of rollouts", _share, (0.0, 1.0)),
            )
        ),
    ]
    return [chart for chart in drawn if chart is not None]


def forest(analysis: Mapping[str, Any], name: str) -> Forest:
    """Gains of all methods on one axis, with their corrected intervals."""
    gains = analysis["gains"][name]
    bounds = [gains[m][b] for m in gains for b in ("low", "high")]
    axis = enclosing(min(0.0, *bounds), max(0.0, *bounds), 5)
    bars = tuple(
        Bar(
            title=analysis["methods"][method]["title"],
            at=axis.at(gain["estimate"]["mean"]),
            left=axis.at(gain["low"]),
            width=axis.at(gain["high"]) - axis.at(gain["low"]),
            claimed=gain["claimed"],
            text=f"{gain['estimate']['mean'] * 100:+.1f}",
        )
        for method, gain in gains.items()
    )
    ticks = axis.ticks(lambda value: f"{value * 100:+.0f}" if value else "0")
    return Forest(bars=bars, ticks=ticks, zero=axis.at(0.0))


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
