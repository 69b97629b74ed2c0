"""Compares equations and inequalities, and finds the value that an equation gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from preceptor_services.feedback.verifiers.mathematics.expressions import (
    ENOUGH,
    at,
    close,
    points,
    symbols,
    sympy,
)
from preceptor_services.feedback.verifiers.mathematics.parts import Compare, matched
from preceptor_services.feedback.verifiers.mathematics.sets import elements, is_collection

_HIGHEST: Final = 12
"""Degree of a polynomial whose zeros are looked for."""


def values(gold: Any, given: Any) -> tuple[Any, Any]:
    """Both without `x =` in front, unless both are equations and do not name the same thing."""
    names = _name_of(gold), _name_of(given)
    if is_relation(gold) and is_relation(given) and (names[0] is None or names[0] != names[1]):
        return gold, given
    unnamed = (_last_side(one) if name is not None else one for one, name in
              zip((gold, given), names, strict=True))  # fmt: skip
    first, second = unnamed
    # `2 + 3 = 5` is 5.
    return (first, _last_side(second)) if _says_a_number(second) else (first, second)


def _name_of(value: Any) -> Any:
    """What stands before the first equals sign, where it only names what follows."""
    s = sympy()
    sides = _sides(value)
    if sides is None:
        return None
    left = sides[0]
    is_name = isinstance(left, s.Symbol) or (
        isinstance(left, s.core.function.AppliedUndef)
        or (is_collection(left) and all(isinstance(one, s.Symbol) for one in elements(left) or ()))
    )
    own = left.free_symbols if isinstance(left, s.Symbol) else set[Any]()
    if is_name:
        return None if own & symbols(sides[-1]) else left
    # `m + n = 204` names a sum; in `x + 2 = 5` the 5 is not the answer.
    is_term = isinstance(left, s.Expr) and bool(symbols(left)) and not symbols(sides[-1])
    return (
        left if is_term and {abs(one) for one in left.atoms(s.Number)} <= {s.Integer(1)} else None
    )


def _sides(value: Any) -> list[Any] | None:
    """The sides of an equation, or of a chain of equations."""
    s = sympy()
    links: Sequence[Any] = getattr(value, "_unsorted_args", value.args) if isinstance(
        value, s.And) else [value]  # fmt: skip
    if not all(isinstance(link, s.Eq) for link in links):
        return None
    return [links[0].lhs, *(link.rhs for link in links)]


def _last_side(value: Any) -> Any:
    sides = _sides(value)
    return value if sides is None else sides[-1]


def _says_a_number(value: Any) -> bool:
    sides = _sides(value)
    return sides is not None and not any(symbols(side) for side in sides)


def is_relation(value: Any) -> bool:
    """Whether a value is an equation, an inequality, or several of them at once."""
    s = sympy()
    return isinstance(value, (s.core.relational.Relational, s.And))


def same_relations(gold: Any, given: Any, compare: Compare) -> bool | None:
    """Whether two relations say the same."""
    s = sympy()
    if isinstance(gold, s.And) or isinstance(given, s.And):
        return matched(list(gold.args), list(given.args), _same_relations_of(compare)) if type(
            gold) is type(given) else None  # fmt: skip
    if _name_of(gold) is not None and _name_of(given) is not None:
        # The same name: their values; other names: other things.
        names = _name_of(gold), _name_of(given)
        return compare(gold.rhs, given.rhs) if names[0] == names[1] else False
    if isinstance(gold, s.Eq) != isinstance(given, s.Eq):
        return False
    ratio = _ratio(gold.lhs - gold.rhs, given.lhs - given.rhs)
    if ratio is None:
        return _without_solutions(gold, given) if isinstance(gold, s.Eq) else False
    if isinstance(gold, (s.Eq, s.Ne)):
        return type(gold) is type(given)
    turned = gold.reversed if ratio < 0 else gold
    return type(turned) is type(given)


def _same_relations_of(compare: Compare) -> Compare:
    return lambda one, other: same_relations(one, other, compare)


def _ratio(one: Any, other: Any) -> Any:
    """The number by which one expression is the other, at every point; None where none is."""
    s = sympy()
    quotients: list[Any] = []
    for point in points(symbols(one) | symbols(other)):
        first, second = at(one, point), at(other, point)
        if first is None or second is None or second == 0:
            continue
        quotients.append(first / second)
    if len(quotients) < ENOUGH or any(not close(q, quotients[0]) for q in quotients):
        return None
    return s.re(quotients[0])


def _without_solutions(gold: Any, given: Any) -> bool | None:
    """False where one equation has a solution that the other has not; else nothing is said."""
    first, second = gold.lhs - gold.rhs, given.lhs - given.rhs
    for one, other in ((first, second), (second, first)):
        for solution in _solutions(one, symbols(first) | symbols(second)):
            found = at(other, solution)
            if found is not None and abs(found) > sympy().Float("1e-12"):
                return False
    return None


def _solutions(term: Any, variables: set[Any]) -> list[dict[Any, Any]]:
    """Some points at which a polynomial is zero."""
    s = sympy()
    unknown = min(symbols(term), key=str, default=None)
    if unknown is None or not term.is_polynomial(unknown):
        return []
    found: list[dict[Any, Any]] = []
    for point in points(variables - {unknown})[:ENOUGH]:
        polynomial = s.Poly(term.subs(point), unknown)
        if 0 < polynomial.degree() <= _HIGHEST and not polynomial.has(s.Float):
            found += [{**point, unknown: root} for root in polynomial.nroots(n=30)]
    return found


def as_set(value: Any) -> Any:
    """The interval of `x > 2` and of `1 < x <= 3`; everything else as it is.

    A relation that would have to be solved first stays one: it may be the question itself.
    """
    s = sympy()
    links = value.args if isinstance(value, s.And) else (value,)
    kinds = (s.StrictLessThan, s.StrictGreaterThan, s.LessThan, s.GreaterThan)
    if not all(isinstance(link, kinds) for link in links) or len(symbols(value)) != 1:
        return value
    if not all(isinstance(link.lhs, s.Symbol) or isinstance(link.rhs, s.Symbol) for link in links):
        return value
    return s.Intersection(*(link.as_set() for link in links))
