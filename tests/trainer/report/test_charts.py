import pytest

from preceptor_trainer.report.axis import Axis, enclosing
from preceptor_trainer.report.charts import SMALL_CURVES, SOLVE_RATE, draw, moving_mean, series


def lines(values: list[float | None]) -> list[dict[str, object]]:
    return [{"step": i, "reward": v} for i, v in enumerate(values)]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.5, 1.0]),
        (14.6, 16.9, [14.0, 15.0, 16.0, 17.0]),
        (-0.31, 0.12, [-0.4, -0.2, 0.0, 0.2]),
        (1e-7, 3e-7, [1e-7, 2e-7, 3e-7]),
    ],
)
def test_marks_are_round_and_enclose_the_values(
    low: float, high: float, expected: list[float]
) -> None:
    assert enclosing(low, high, 3).marks == pytest.approx(tuple(expected))


@pytest.mark.parametrize("value", [2.0, 0.0, -0.3])
def test_a_constant_curve_still_has_an_axis(value: float) -> None:
    marks = enclosing(value, value, 3).marks

    assert marks[0] < value < marks[-1]


@pytest.mark.parametrize("reach", [0.3, 0.6, 0.7, 2.1])
def test_a_mark_at_zero_is_zero_and_not_a_trace_of_rounding(reach: float) -> None:
    marks = enclosing(-reach, reach, 5).marks

    assert 0.0 in marks
    assert not any(0 < abs(mark) < 1e-6 for mark in marks)


def test_a_doubling_axis_gives_each_doubling_the_same_room() -> None:
    axis = Axis(marks=(1.0, 64.0), logarithmic=True)

    assert [axis.at(k) for k in (1, 8, 64)] == pytest.approx([0.0, 50.0, 100.0])


def test_an_axis_of_one_value_puts_it_at_the_beginning() -> None:
    assert Axis(marks=(5.0, 5.0)).at(5.0) == 0.0


def test_the_moving_mean_looks_back_and_never_ahead() -> None:
    assert moving_mean([0, 0, 0, 0, 0, 5]) == [0, 0, 0, 0, 0, 1]


def test_a_step_without_the_metric_is_skipped_and_not_drawn_as_zero() -> None:
    assert series(lines([0.5, None, 0.7]), "reward") == ([0, 2], [0.5, 0.7])


def test_points_stand_where_their_values_are() -> None:
    chart = draw(SOLVE_RATE, lines([0.0, 0.25, 1.0]))

    assert chart is not None
    assert chart.dots == "M0.00 100.00h0 M50.00 75.00h0 M100.00 0.00h0"
    assert [(t.label[:-2], t.at) for t in chart.y_ticks] == [
        ("0", 0.0),
        ("25", 25.0),
        ("50", 50.0),
        ("75", 75.0),
        ("100", 100.0),
    ]


def test_one_step_makes_no_curve() -> None:
    assert draw(SOLVE_RATE, lines([0.5])) is None


@pytest.mark.parametrize(("last", "is_explained"), [(-0.5, True), (0.5, False)])
def test_a_curve_of_a_negative_loss_says_why_it_may_be_below_zero(
    last: float, is_explained: bool
) -> None:
    [loss] = [curve for curve in SMALL_CURVES if curve.metric == "loss"]
    metrics = [{"step": step, "loss": value} for step, value in enumerate((1.0, last))]

    chart = draw(loss, metrics)  # type: ignore[arg-type]  lines of a log

    assert chart is not None
    assert ("below 0 where advantages" in chart.note) is is_explained
