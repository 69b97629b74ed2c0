"""When a program's value is the expected one, and how values are written.

This is the only place that says what a grader forgives. A value passes when it has the type of the
expected value and the same content:

- Numbers: `1`, `1.0` and `True` are three values; so are `0.0` and `-0.0`. Integers of any length
  compare exactly.
- Texts: character by character. Nothing inside a text is forgiven, spaces least of all.
- Lists: item by item, in order.
- Mappings: the same keys with the same values. The order of keys does not matter.
- Everything that JSON has no exact form for (tuples, sets, bytes, NaN, mappings with keys that are
  no texts, instances of subclasses) is wrong, whatever it prints as.

`docs/explanation/what-the-grader-forgives.md` has the table of cases, which a test runs.
"""

from __future__ import annotations

import re
from typing import Any, Final, cast

_LITERAL_OR_SPACE: Final = re.compile(
    r"""('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")|([,:]) """, re.DOTALL
)


def same_value(value: object, expected: object) -> bool:
    """Whether a value is the expected one; see above.

    Args:
        value: What a program gave; anything.
        expected: A JSON value.
    """
    if type(value) is not type(expected):
        return False
    if isinstance(value, list):
        ours, theirs = cast("list[Any]", value), cast("list[Any]", expected)
        return len(ours) == len(theirs) and all(map(same_value, ours, theirs))
    if isinstance(value, dict):
        given, wanted = cast("dict[Any, Any]", value), cast("dict[Any, Any]", expected)
        return given.keys() == wanted.keys() and all(
            type(key) is str and same_value(item, wanted[key]) for key, item in given.items()
        )
    if isinstance(value, float):
        return repr(value) == repr(expected)  # apart from ==, this tells 0.0 from -0.0
    return value == expected


def compact(value: object) -> str:
    """The written form of a value without the spaces after commas and colons."""
    return without_spaces(repr(value))


def without_spaces(written: str) -> str:
    """A written form without the spaces after commas and colons; texts stay as they are."""
    return _LITERAL_OR_SPACE.sub(lambda match: match[1] or match[2], written)
