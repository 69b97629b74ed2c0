"""Decides whether two mathematical values are the same.

Values are compared part by part down to expressions. What this cannot decide is left to
math-verify, whose yes counts; its no does not, because it also says no where it gave up. Then there
is no verdict (`None`), which is never a score.
"""

from __future__ import annotations

from typing import Any

from preceptor_services.feedback.verifiers.mathematics.equations import (
    as_set,
    is_relation,
    same_relations,
    values,
)
from preceptor_services.feedback.verifiers.mathematics.expressions import same_expressions, sympy
from preceptor_services.feedback.verifiers.mathematics.reading import math_verify
from preceptor_services.feedback.verifiers.mathematics.sets import (
    is_collection,
    same_collections,
    same_matrices,
)


def same(gold: Any, given: Any, digits: int = 6) -> bool | None:
    """Whether two values are the same; None where it cannot be decided.

    Args:
        gold: The right value.
        given: The student's.
        digits: Significant digits that a decimal number has to have for a value that it rounds.
    """
    found = _same(gold, given, digits)
    if found is not None:
        return found
    library = math_verify()
    # An error in it is an error of the judgement, and no score.
    agrees = library.verify([gold], [given], timeout_seconds=None, raise_on_error=True)
    return True if agrees else None


def _same(gold: Any, given: Any, digits: int) -> bool | None:
    def compare(one: Any, other: Any) -> bool | None:
        return _same(one, other, digits)

    s = sympy()
    gold, given = values(gold, given)
    if is_relation(gold) and is_relation(given):
        return same_relations(gold, given, compare)
    gold, given = as_set(gold), as_set(given)
    if is_relation(gold) or is_relation(given):
        return False if isinstance(gold, s.Expr) or isinstance(given, s.Expr) else None
    if isinstance(gold, s.MatrixBase) or isinstance(given, s.MatrixBase):
        return same_matrices(gold, given, compare)
    if is_collection(gold) or is_collection(given):
        return same_collections(gold, given, compare)
    if isinstance(gold, s.Expr) and isinstance(given, s.Expr):
        return same_expressions(gold, given, digits)
    return True if gold == given else None
