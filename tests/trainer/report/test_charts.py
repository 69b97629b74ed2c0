import pytest

from preceptor_trainer.report.charts import SOLVE_RATE, draw, moving_mean, series, ticks


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
def test_ticks_are_round_and_enclose_the_values(
    low: float, high: float, expected: list[float]
) -> None:
    assert ticks(low, high, 3) == pytest.approx(expected)


def test_a_constant_curve_still_has_an_axis() -> None:
    found = ticks(2.0, 2.0, 3)

    assert found[0] < 2.0 < found[-1]


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
