r"""Units after a number: `5\text{ cm}`, `5 cm^2`, `60^\circ`, `$5`, `12 apples`."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

_KNOWN: Final[dict[str, tuple[str, Fraction]]] = {
    name: (kind, Fraction(factor))
    for kind, names in {
        "length": {"mm": "1/1000", "cm": "1/100", "dm": "1/10", "m": "1", "km": "1000"},
        "mass": {"mg": "1/1000000", "g": "1/1000", "kg": "1"},
        "time": {"ms": "1/1000", "s": "1", "min": "60", "h": "3600"},
        "money": {"dollar": "1", "$": "1", "cent": "1/100"},
        "angle": {"degree": "1"},
    }.items()
    for name, factor in names.items()
}
_SAME: Final = {
    **{"meter": "m", "metre": "m", "centimeter": "cm", "millimeter": "mm", "kilometer": "km"},
    **{"gram": "g", "kilogram": "kg", "sec": "s", "second": "s", "minute": "min", "mins": "min"},
    **{"hour": "h", "hr": "h", "deg": "degree", "circ": "degree", "usd": "dollar"},
}
_NUMBER: Final = r"(?:[-+]?[\d.,]*\d|[-+]?\\[dt]?frac\{[^{}]*\}\{[^{}]*\}|.*[\d})])"
_IN_TEXT: Final = r"\\(?:text|mathrm|textbf|mbox|rm)\s*\{\s*([^{}\d]+?)\s*\}"
_IN_WORDS: Final = r"(?<=[\d\s])([A-Za-z]{2,}(?:[ /][A-Za-z]+)*)|(?<=\d )([msgh])"
_WORDED: Final = re.compile(
    rf"({_NUMBER})\s*(?:\\[ ,;:!]|~)*\s*(?:{_IN_TEXT}|{_IN_WORDS})(?:\s*\^\s*\{{?\s*(\d)\s*\}}?)?"
)
_POWER: Final = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_DEGREES: Final = re.compile(r"(.+?)\s*\^\s*\{?\s*\\circ\s*\}?")
_NO_UNITS: Final = {"and", "or", "if", "for", "mod", "pi", "sin", "cos", "tan", "log", "ln", "in"}


def split_unit(text: str) -> tuple[str, str | None]:
    """The number, and its unit by one name; the whole text where it has none."""
    money = re.fullmatch(r"\\?\$\s*(.+)", text)
    if money is not None:
        return money[1], "dollar"
    degrees = _DEGREES.fullmatch(text)
    if degrees is not None:
        return degrees[1], "degree"
    worded = _WORDED.fullmatch(text)
    if worded is None:
        return text, None
    name = next(group for group in worded.groups()[1:4] if group).strip().lower().rstrip(".")
    if {*name.split()} & _NO_UNITS:
        return text, None
    return worded[1], _one_name(name, int(worded[5] or 1))


def factor_between(one: str, other: str) -> Fraction | None:
    """By what a number of one unit is multiplied for the other; None where they do not compare."""
    if one == other:
        return Fraction(1)
    (first, power), (second, same_power) = _parts(one), _parts(other)
    if first not in _KNOWN or second not in _KNOWN or power != same_power:
        return None
    (kind, size), (other_kind, other_size) = _KNOWN[first], _KNOWN[second]
    return (size / other_size) ** power if kind == other_kind else None


def is_known(unit: str) -> bool:
    """Whether a unit can be told from others, unlike things that are counted."""
    return all(_one_name(part, 1) in _KNOWN for part in re.split(r"[/^\d]+", unit) if part)


def _one_name(name: str, power: int) -> str:
    words = name.split()
    if len(words) > 1 and words[0] in _POWER:
        power, words = _POWER[words[0]], words[1:]
    name = " ".join(words)
    single = name if name in _KNOWN else name.removesuffix("s") if len(name) > 2 else name
    single = _SAME.get(name) or _SAME.get(single) or single
    return single if power == 1 else f"{single}^{power}"


def _parts(unit: str) -> tuple[str, int]:
    name, _, power = unit.partition("^")
    return name, int(power or 1)
