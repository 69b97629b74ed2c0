"""Compares lists, sets, intervals, pairs and matrices."""

from __future__ import annotations

from typing import Any

from preceptor_services.feedback.verifiers.mathematics.expressions import sympy
from preceptor_services.feedback.verifiers.mathematics.parts import Compare, in_order, matched


def is_collection(value: Any) -> bool:
    """Whether a value is made of others."""
    s = sympy()
    return isinstance(value, (s.Set, s.Tuple, list, tuple))


def elements(value: Any) -> list[Any] | None:
    """The elements of a finite collection; None for others."""
    s = sympy()
    if isinstance(value, (s.FiniteSet, s.Tuple)):
        return list(value.args)
    return None


def _pair(value: Any) -> list[Any] | None:
    """The two numbers of a pair, which the reader takes for an open interval where it can."""
    s = sympy()
    if isinstance(value, s.Interval) and value.is_open:
        return [value.start, value.end]
    return list(value.args) if isinstance(value, s.Tuple) else None


def same_collections(gold: Any, given: Any, compare: Compare) -> bool | None:
    """Whether two values are the same, of which one is a collection."""
    s = sympy()
    if isinstance(gold, s.Expr) or isinstance(given, s.Expr):
        one, other = (gold, given) if isinstance(gold, s.Expr) else (given, gold)
        inside = elements(other)
        alone = isinstance(other, s.FiniteSet) and inside is not None and len(inside) == 1
        return compare(one, inside[0]) if alone and inside else False
    if isinstance(gold, s.FiniteSet) and isinstance(given, s.FiniteSet):
        return matched(list(gold.args), list(given.args), compare)
    if (one := _pair(gold)) is not None and (other := _pair(given)) is not None:
        return in_order(one, other, compare)
    if isinstance(gold, s.Interval) and isinstance(given, s.Interval):
        ends = (gold.left_open, gold.right_open) == (given.left_open, given.right_open)
        parts = in_order([gold.start, gold.end], [given.start, given.end], compare)
        return parts if ends else False
    if isinstance(gold, s.Union) and isinstance(given, s.Union):
        return matched(list(gold.args), list(given.args), compare)
    kinds = (s.FiniteSet, s.Interval, s.Union, s.Tuple)
    if gold == given:
        return True
    if isinstance(gold, kinds) and isinstance(given, kinds):
        return False
    both = isinstance(gold, s.Set) and isinstance(given, s.Set)
    return False if both and False in (gold.is_subset(given), given.is_subset(gold)) else None


def same_matrices(gold: Any, given: Any, compare: Compare) -> bool | None:
    """Whether two values are the same, of which one is a matrix."""
    s = sympy()
    if isinstance(gold, s.MatrixBase) and isinstance(given, s.MatrixBase):
        shapes = gold.shape == given.shape
        return in_order(list(gold), list(given), compare) if shapes else False
    matrix, other = (gold, given) if isinstance(gold, s.MatrixBase) else (given, gold)
    # A vector may be written as a list in brackets.
    inside = _pair(other)
    return in_order(list(matrix), inside, compare) if inside and 1 in matrix.shape else False
