"""The behaviour of a program on a committed probe set, and the data split by behaviour.

Two programs with the same outputs on all probes are the same behaviour.
The split is a hash of the behaviour, so train, validation and held-out share none.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from types import CodeType
from typing import Any, Final, Literal, cast

Value = int | list[int]
Split = Literal["train", "validation", "held_out"]

RAISES: Final = "raises"
SAFE_BUILTINS: Final[dict[str, Any]] = {
    f.__name__: f for f in (abs, len, list, max, min, range, reversed, set, sorted, sum)
}
# Committed, never regenerated: changing one probe changes every split.
PROBES: Final[tuple[tuple[int, ...], ...]] = (
    (),
    (0,),
    (7,),
    (-4,),
    (1, 2),
    (5, 5),
    (9, -3),
    (2, 8),
    (3, 1, 2),
    (4, 4, 1),
    (-1, 0, 6),
    (7, 6, 5),
    (0, 3, 9),
    (2, 2, 2),
    (12, -5, 3),
    (8, 1, 4, 6),
    (1, 1, 3, 3),
    (-2, -7, 5, 2),
    (10, 0, 10, 5),
    (6, 7, 3, 2),
    (4, 9, -6, 1),
    (3, 5, 2, 8, 1),
    (0, -1, 4, 4, 7),
    (13, 2, 6, 2, 9),
    (5, 3, 1, 0, -8),
    (7, 8, 6, 15, 4),
    (1, 2, 3, 4, 5, 6),
    (9, 7, 5, 3, 1, -1),
    (2, 6, 2, 0, 6, 3),
    (-9, 20, 4, 1, 5, 8),
    (3, 3, 8, -2, 7, 0),
    (11, 4, 16, 5, 2, 19),
)


def compile_expression(text: str) -> Callable[[list[int]], Value]:
    """Compiles a text of this task's own generator to a function of `x`; never untrusted text.

    Raises:
        SyntaxError: `text` is not one Python expression.
    """
    _compile(text)  # first alone, for its own message and so that `x)+(x` stays an error
    code = _compile(f"lambda x:({text})")
    return cast("Callable[[list[int]], Value]", eval(code, {"__builtins__": SAFE_BUILTINS}))


def compiles(text: str) -> bool:
    """True when `text` is a Python expression."""
    try:
        _compile(text)
    except SyntaxError:
        return False
    return True


def _compile(source: str) -> CodeType:
    with warnings.catch_warnings():
        # broken programs are expected here: `2if` gives a warning in Python
        warnings.simplefilter("ignore", SyntaxWarning)
        return compile(source, "<expression>", "eval")


def behaviour_of(text: str) -> tuple[str, ...]:
    """Outputs on every probe as compact text; all exceptions count as the same value."""
    try:
        function = compile_expression(text)
    except SyntaxError:
        return (RAISES,) * len(PROBES)
    return tuple(_observe(function, probe) for probe in PROBES)


def _observe(function: Callable[[list[int]], Value], probe: tuple[int, ...]) -> str:
    try:
        return repr(function(list(probe))).replace(" ", "")
    except Exception:
        # the failure of the program is the result
        return RAISES


def split_of(behaviour: tuple[str, ...]) -> Split:
    """15 % held out, 5 % validation, the rest train; never-defined behaviours are train."""
    if all(value == RAISES for value in behaviour):
        return "train"
    digest = hashlib.sha256("|".join(behaviour).encode()).digest()
    bucket = int.from_bytes(digest[:4], "little") % 100
    return "held_out" if bucket < 15 else "validation" if bucket < 20 else "train"
