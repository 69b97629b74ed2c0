"""Compares expressions by 50 digits, at one point or, with variables, at many.

Where both are real at a point, they have to agree there: `sqrt(1/n)` is `1/sqrt(n)`, and `x` is not
`|x|`.
"""

from __future__ import annotations

import random
from functools import cache
from importlib import import_module
from typing import Any, Final

from preceptor_services.feedback.verifiers.mathematics.parts import every

_DIGITS: Final = 50
_SAME_TO: Final = "1e-35"
_POINTS: Final = 14
ENOUGH: Final = 4
"""Points at which both values are real; with fewer nothing is said."""
_COUNTS: Final = frozenset("nmkNMK")
"""Variables that stand for whole numbers from 1, as in `(-1)^n`."""


def same_expressions(gold: Any, given: Any, digits: int) -> bool | None:
    """Whether two expressions are the same; None where it cannot be said."""
    s = sympy()
    if _is_percent(gold) != _is_percent(given):
        # `50%` is 50 where the question asks for percent, and 0.5 where it does not.
        pairs = [(gold, given), (_percent_away(gold), _percent_away(given))]
        found = [_same_numbers(_exact(one), _exact(other), one, other, digits) for one, other in
                 pairs]  # fmt: skip
        return True if True in found else every(found)
    first, second = _exact(gold), _exact(given)
    if not (symbols(first) | symbols(second)):
        return _same_numbers(first, second, gold, given, digits)
    if first.has(s.core.function.AppliedUndef) or second.has(s.core.function.AppliedUndef):
        return True if first == second else None
    return _same_at_points(first, second)


def _same_numbers(first: Any, second: Any, gold: Any, given: Any, digits: int) -> bool | None:
    s = sympy()
    first, second = first.doit(), second.doit()
    if first.has(s.zoo, s.nan) or second.has(s.zoo, s.nan):
        return None
    if first == second:
        return True
    if first.is_infinite or second.is_infinite:
        return False
    if isinstance(first, s.Rational) and isinstance(second, s.Rational):
        return _rounds(first, second, gold, given, digits)
    one, other = at(first, {}), at(second, {})
    if one is None or other is None:
        return None
    return True if close(one, other) else _rounds(one, other, gold, given, digits)


def _rounds(first: Any, second: Any, gold: Any, given: Any, digits: int) -> bool:
    """Whether one is the other, rounded to the decimals that are written, with enough digits."""
    s = sympy()
    written = [decimals for one in (gold, given) if (decimals := _decimals(one)) is not None]
    if not written:
        return False
    places, significant = min(written)
    half = s.Rational(1, 2) / s.Integer(10) ** places
    return significant >= digits and bool(abs(first - second) <= half)


def _decimals(value: Any) -> tuple[int, int] | None:
    """Places after the point and significant digits of a decimal number; None for others."""
    s = sympy()
    bare = -value if isinstance(value, s.Mul) and value.could_extract_minus_sign() else value
    if not isinstance(bare, s.Float):
        return None
    whole, _, after = _text_of(bare).lstrip("-").partition(".")
    return len(after), len((whole + after).lstrip("0"))


def _text_of(number: Any) -> str:
    """A decimal number as it was written, without zeros at its end."""
    text = f"{sympy().Rational(str(number)).evalf(15):f}" if "e" in str(number) else str(number)
    return text.rstrip("0").rstrip(".") if "." in text else text


def _exact(value: Any) -> Any:
    """An expression with fractions for decimals, and with the numbers that `i` and `e` name."""
    s = sympy()
    exact = {one: s.Rational(str(one)) for one in value.atoms(s.Float)}
    wrapped = {one: one.args[0] for one in value.atoms(s.UnevaluatedExpr)}
    value = value.xreplace(exact).xreplace(wrapped)
    known = {"i": s.I, "e": s.E}
    return value.subs({one: known[one.name] for one in symbols(value) if one.name in known})


def _is_percent(value: Any) -> bool:
    s = sympy()
    return isinstance(value, s.Mul) and value.has(s.UnevaluatedExpr)


def _percent_away(value: Any) -> Any:
    s = sympy()
    return value.xreplace({one: s.Integer(1) for one in value.atoms(s.UnevaluatedExpr)})


def _same_at_points(first: Any, second: Any) -> bool | None:
    num_compared = 0
    for point in points(symbols(first) | symbols(second)):
        one, other = at(first, point), at(second, point)
        if one is None or other is None or not (one.is_real and other.is_real):
            continue
        if not close(one, other):
            return False
        num_compared += 1
    return True if num_compared >= ENOUGH else None


def points(variables: set[Any]) -> list[dict[Any, Any]]:
    """Points of which some are positive in every variable, the same for the same variables."""
    s = sympy()
    rng = random.Random(5)
    ordered = sorted(variables, key=str)
    points: list[dict[Any, Any]] = []
    for number in range(_POINTS):
        low = -400 if number % 2 else 1
        points.append(
            {
                one: s.Integer(rng.randint(1, 12))
                if one.name in _COUNTS
                else s.Rational(rng.randint(low, 400) * 2 + 1, 202)
                for one in ordered
            }
        )
    return points


def at(value: Any, point: dict[Any, Any]) -> Any:
    """The number that an expression is at a point; None where it is none."""
    s = sympy()
    try:
        found = value.subs(point).doit().evalf(_DIGITS, chop=False)
    except (ArithmeticError, AttributeError, NotImplementedError, TypeError, ValueError):
        return None
    real, imaginary = found.as_real_imag()
    if not (real.is_Number and imaginary.is_Number and real.is_finite and imaginary.is_finite):
        return None
    # What is left of a sum that cancels is no imaginary part.
    tiny = abs(imaginary) <= s.Float("1e-30") * max(abs(real), s.Float("1e-30"))
    return real if tiny else real + imaginary * s.I


def close(one: Any, other: Any) -> bool:
    """Whether two numbers are the same, but for the last of many digits."""
    s = sympy()
    size = max(s.Abs(one).evalf(), s.Abs(other).evalf())
    return bool(s.Abs(one - other).evalf() <= s.Float(_SAME_TO) * size)


def symbols(value: Any) -> set[Any]:
    """The variables of a value."""
    return set(getattr(value, "free_symbols", ()))


@cache
def sympy() -> Any:
    """The library, which is imported where it is needed."""
    return import_module("sympy")
