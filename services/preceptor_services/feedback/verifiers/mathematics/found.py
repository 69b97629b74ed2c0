r"""Finds the final answer of a response.

In this order: the last `\boxed{}`; what follows the last `answer is` or `answer:`; the last formula
between dollars or brackets; the last line, where it is a formula; a response that is nothing but a
word or a number with its unit; the last number.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from preceptor_services.feedback.verifiers.marked import last_boxed, last_tagged
from preceptor_services.feedback.verifiers.mathematics.units import split_unit

_SAID: Final = re.compile(
    r"\banswer\b\W{0,6}(?:is|was|are|equals|=|:)\W{0,3}?\s*(?P<rest>[^\n]+)", re.IGNORECASE
)
_FORMULA: Final = re.compile(
    # With a bound: otherwise ten thousand openings without an end take minutes.
    r"\$\$(.{1,1000}?)\$\$|\\\[(.{1,1000}?)\\\]|\\\((.{1,1000}?)\\\)"
    r"|(?<![\\$])\$(?!\$)((?:\\.|[^$\n]){1,1000}?)\$",
    re.DOTALL,
)
_AND: Final = re.compile(r"\s*(?:,|;|,?\s*and|,?\s*or)\s*")
_COMMAND: Final = re.compile(r"\\(?:begin|end)\{\w+\}|\\[A-Za-z]+")
_WORD: Final = re.compile(r"[A-Za-z]{3,}")
_NUMBER: Final = re.compile(r"(?<![\w.])[-+−]?(?:\d[\d,]*\.?\d*|\.\d+)(?:/\d+)?%?")
_FUNCTIONS: Final = {
    *("sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "sqrt", "arcsin", "arccos", "arctan"),
    *("sinh", "cosh", "tanh", "min", "max", "mod", "gcd", "lcm", "det", "inf", "infty", "binom"),
    "and",
}
_END: Final = 20_000
"""Characters at the end of a response, in which its last formula is looked for."""
_SHORT: Final = 40
"""Characters of a response that is nothing but its answer."""


class Found(NamedTuple):
    """An answer, as it is written."""

    text: str
    marked: bool
    """Whether the response says that it is an answer or a formula; else it may be any text."""


def final_answer(text: str, *, boxed: bool = False) -> Found | None:
    """The final answer; None where there is none.

    Args:
        text: A response.
        boxed: Whether only an answer in a box counts.
    """
    tagged = last_tagged(text, "answer")
    text = text if tagged is None else tagged
    found = last_boxed(text)
    if found is not None or boxed:
        return Found(found, marked=True) if found else None
    if found := _said(text) or _formula(text):
        return Found(found, marked=True)
    line = _line(text)
    if found := line or _short(text) or _number(text) or tagged:
        return Found(found, marked=tagged is not None or bool(line and _COMMAND.search(line)))
    return None


def plain(text: str) -> str:
    """A text without marks of Markdown, delimiters of formulas, and the end of a sentence."""
    text = re.sub(r"\*\*+|__|`", "", text) if not re.search(r"\w\*\*\w", text) else text
    text = text.strip()
    for mark in "*$":
        if len(text) > 1 and text[0] == text[-1] == mark:
            text = text.strip(f"{mark} \n")
    for start, end in (("\\(", "\\)"), ("\\[", "\\]")):
        if text.startswith(start) and text.endswith(end):
            text = text[2:-2].strip()
    return re.sub(r"(?<!\\)[.;,:]+$", "", text).strip()


def _said(text: str) -> str | None:
    """What follows the last `answer is`: its formulas, or the text up to the sentence's end."""
    matches = list(_SAID.finditer(text))
    if not matches:
        return None
    rest = matches[-1]["rest"]
    if (formula := _formula(text[matches[-1].start("rest") :], first=True)) is not None:
        return formula
    sentence = re.split(
        r"\.\s|[!?]\s|\.$|,\s*(?:because|since|which|so)\b", rest.strip(), maxsplit=1
    )
    return plain(sentence[0]) or None


def _formula(text: str, *, first: bool = False) -> str | None:
    """The last formula, with those that only `and` or a comma joins to it; or the first ones."""
    found = list(_FORMULA.finditer(text if first else text[-_END:]))
    if not found:
        return None
    taken = [found[0] if first else found[-1]]
    for match in found[1:] if first else reversed(found[:-1]):
        one, other = (taken[-1], match) if first else (match, taken[0])
        if not _AND.fullmatch(one.string[one.end() : other.start()]):
            break
        taken.insert(len(taken) if first else 0, match)
    return ", ".join(next(group for group in match.groups() if group) for match in taken).strip()


def _line(text: str) -> str | None:
    """The last line, where it is a formula without delimiters."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    line = plain(lines[-1]) if lines else ""
    words = set(_WORD.findall(_COMMAND.sub(" ", re.sub(r"\\text\{[^{}]*\}", "", line))))
    is_formula = bool(re.search(r"\\[A-Za-z{$]|[=^*/+<>≤≥√π∞]|^[\[({-]?[\w.]+", line))
    return line if line and is_formula and words <= _FUNCTIONS else None


def _short(text: str) -> str | None:
    text = text.strip()
    if len(text) > _SHORT or "\n" in text:
        return None
    in_words = not any(sign.isdigit() for sign in text)
    return text if in_words or split_unit(plain(text))[1] is not None else None


def _number(text: str) -> str | None:
    found = _NUMBER.findall(text)
    return found[-1].rstrip(".,") if found else None
