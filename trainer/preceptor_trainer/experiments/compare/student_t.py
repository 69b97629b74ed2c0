"""Student's t distribution, as far as an interval needs it.

    two_sided_p(2.776, 4.0)         # 0.05
    critical_value(0.95, 4.0)       # 2.776

`P(|T| > t) = I_x(dof/2, 1/2)` with `x = dof / (dof + t^2)`, I the regularised incomplete beta
function, by its continued fraction (modified Lentz). Degrees of freedom need not be whole. Here,
because nothing else in the package would need a statistics library.
"""

from __future__ import annotations

import math

_TINY = 1e-300
_PRECISION = 1e-14
_MOST_TERMS = 500


def two_sided_p(t: float, dof: float) -> float:
    """Chance that |T| is above |t|.

    Args:
        t: the statistic; infinity gives 0.
        dof: degrees of freedom, positive.
    """
    if dof <= 0:
        raise ValueError(f"dof must be positive, not {dof}")
    if math.isinf(t):
        return 0.0
    return _incomplete_beta(dof / (dof + t * t), dof / 2, 0.5)


def critical_value(level: float, dof: float) -> float:
    """The t that |T| stays below with chance `level`, by bisection."""
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")
    low, high = 0.0, 1.0
    while two_sided_p(high, dof) > 1 - level:
        high *= 2
    while high - low > 1e-10 * high:
        middle = (low + high) / 2
        if two_sided_p(middle, dof) > 1 - level:
            low = middle
        else:
            high = middle
    return high


def _incomplete_beta(x: float, a: float, b: float) -> float:
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    # the fraction converges fast below this point only; above it the mirrored one does
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _incomplete_beta(1 - x, b, a)
    log_front = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    return math.exp(log_front) / a * _continued_fraction(x, a, b)


def _continued_fraction(x: float, a: float, b: float) -> float:
    numerator, denominator = 1.0, 1.0 / _away_from_zero(1 - (a + b) * x / (a + 1))
    value = denominator
    for m in range(1, _MOST_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            denominator = 1.0 / _away_from_zero(1 + term * denominator)
            numerator = _away_from_zero(1 + term / numerator)
            value *= numerator * denominator
        if abs(numerator * denominator - 1) < _PRECISION:
            return value
    raise ArithmeticError(f"no convergence for x={x}, a={a}, b={b}")


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
