"""Against printed tables and closed forms."""

import math

import pytest

from preceptor_trainer.experiments.compare.student_t import critical_value, two_sided_p


@pytest.mark.parametrize(
    ("level", "dof", "printed"),
    [
        (0.95, 1, 12.706),
        (0.95, 4, 2.776),
        (0.99, 4, 4.604),
        (0.999, 4, 8.610),
        (0.95, 30, 2.042),
        (0.95, 1e6, 1.960),
    ],
)
def test_critical_values_are_those_of_the_printed_table(level, dof, printed):
    assert critical_value(level, dof) == pytest.approx(printed, abs=5e-4)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 4.0, 50.0])
def test_one_and_two_degrees_of_freedom_have_closed_forms(t):
    assert two_sided_p(t, 1) == pytest.approx(1 - 2 / math.pi * math.atan(t), abs=1e-12)
    assert two_sided_p(t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), abs=1e-12)


def test_many_degrees_of_freedom_are_the_normal_distribution():
    assert two_sided_p(1.5, 1e7) == pytest.approx(math.erfc(1.5 / math.sqrt(2)), abs=1e-6)


def test_the_critical_value_inverts_the_p_value():
    assert two_sided_p(critical_value(0.97, 3.7), 3.7) == pytest.approx(0.03, abs=1e-8)


def test_no_degrees_of_freedom_are_refused():
    with pytest.raises(ValueError, match="dof must be positive, not 0"):
        two_sided_p(1.0, 0)
