r"""Makes a value of an answer: text, or an expression of SymPy by the reader of math-verify.

What the reader takes for something else is written in its way first: `1\,234` (a product to it),
`12:00` (a quotient), `1e-3` (Euler's number), `120_5` (its base is lost), `pi/2`, `sqrt(2)`.
"""

from __future__ import annotations

import importlib
import logging
import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from preceptor_services.feedback.verifiers.mathematics.found import plain
from preceptor_services.feedback.verifiers.mathematics.units import split_unit


class Unreadable(ValueError):
    """An answer that the reader does not read; it may be right or wrong."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer."""

    written: str
    """As it is written."""
    words: str | None = None
    """The answer in words, where it is no formula."""
    letters: str = ""
    """Its letters alone, by which `B` is the same as `\\text{(B)}`."""
    value: Any = None
    """The expression."""
    unit: str | None = None
    """The unit that follows it."""
    base: int | None = None
    """The base of a whole number that names one."""
    parts: tuple[int, ...] = ()
    """The numbers of a ratio or a time of day."""


_TEXT: Final = re.compile(
    r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"
)
_FONT: Final = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boldsymbol|bm)\s*\{([-\d.,/]+|\w)\}")
"""A number or a letter in another font."""
_LABEL: Final = re.compile(
    r"^\\(?:text|textbf|mathrm)\s*\{\s*\(?[A-E]\)?\s*\}(?:\\[ ,;]|\\q?quad|~)\s*"
)
"""The letter of a choice in front of its value."""
_LINE: Final = re.compile(r"\\over(?:line|rightarrow)\s*\{([A-Z]{2,3})\}")
_UNICODE: Final = {
    "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "π": r"\pi ", "∞": r"\infty ",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ",
    "∈": r"\in ", "∅": r"\emptyset ", "°": r"^\circ ", "θ": r"\theta ", "²": "^2", "³": "^3",
    "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "ℝ": r"\mathbb{R}",
    "\u00a0": " ", "\u2009": " ", "％": "%", "，": ",", "（": "(", "）": ")",
}  # fmt: skip
_FUNCTIONS: Final = "sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|log|ln"
_NAMES: Final = {*_FUNCTIONS.split("|"), "exp", "sqrt", "pi", "inf", "infty", "infinity", "oo"}
_DOTS: Final = re.compile(r"\\[lcdv]?dots\b|\.\.\.|…")
_FRACTION: Final = re.compile(
    r"([-+]?)(?:\\[dt]?frac\{(-?\d+)\}\{(\d+)\}|\\[dt]?frac(\d)(\d)|(\d+)/(\d+))"
)
_REPEATING: Final = re.compile(r"(-?)(\d*)\.(\d*)\\(?:overline|bar)\s*\{?(\d+)\}?")


def read(written: str) -> Answer:
    """The value of an answer.

    Raises:
        Unreadable: it is neither words nor a formula that can be read.
    """
    text = plain(_typed(written))
    if (words := _words(text)) is not None:
        return Answer(written=written, words=words, letters=words)
    text = _LINE.sub(r"\1", _LABEL.sub("", _FONT.sub(r"\1", text)))
    if (parts := re.fullmatch(r"\d+(?:\s*:\s*\d+)+", text)) is not None:
        return Answer(written=written, parts=tuple(int(n) for n in re.findall(r"\d+", parts[0])))
    if (based := re.fullmatch(r"([0-9A-Fa-f]+)_\{?(\d+)\}?", text)) is not None:
        return _based(written, based[1], int(based[2]))
    text, unit = split_unit(text)
    value = _expression(_as_latex(text), written)
    return Answer(written=written, value=value, unit=unit, letters=bare(text))


def _typed(text: str) -> str:
    for sign, latex in _UNICODE.items():
        text = text.replace(sign, latex)
    return re.sub(r"√\s*(\d+|\w|\([^()]*\))", r"\\sqrt{\1}", text)


def _words(text: str) -> str | None:
    """The words of an answer that is no formula, in lower case."""
    words = bare(text)
    if not words or not re.fullmatch(r"[^\W\d_]+(?: [^\W\d_]+)*", words):
        return None
    in_text = _TEXT.fullmatch(text.strip()) is not None
    longest = max(words.split(), key=len)
    return words if (in_text or len(longest) >= 3) and not {*words.split()} & _NAMES else None


def bare(text: str) -> str:
    """The letters and digits of a text, in lower case."""
    words = _TEXT.sub(r"\1", text).replace("\\ ", " ").replace("~", " ")
    return re.sub(r"[{}()\s.,'\"!-]+", " ", words).strip().lower()


def letter_by_letter(text: str) -> str:
    """A text without delimiters, fonts and spaces, to be compared as it is written."""
    return " ".join(_TEXT.sub(r"\1", plain(text)).split()).lower().strip(" .")


def _based(written: str, digits: str, base: int) -> Answer:
    try:
        value = int(digits, base)
    except ValueError:
        raise Unreadable(f"{written!r} is no number of base {base}") from None
    return Answer(written=written, value=_sympy().Integer(value), base=base)


def _as_latex(text: str) -> str:
    r"""An answer as the reader expects it."""
    text = re.sub(r"(?<=\d)(?:\\[,!;: ]|\{,\}|,\\!| )(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"\\(?:left|right|displaystyle|bigl?|bigr?|Bigl?|Bigr?)(?![A-Za-z])", "", text)
    text = re.sub(r"(?<![A-Za-z\\])([\d.]+)[eE]([+-]?\d+)(?![\w.])", r"\1\\times 10^{\2}", text)
    text = re.sub(r"\\(sqrt)\s*\(([^()]*)\)", r"\\\1{\2}", text)
    text = _REPEATING.sub(_repeating, text)
    text = re.sub(r"\\log_\{?e\}?", r"\\ln ", text)
    text = re.sub(r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<![\\A-Za-z])exp\s*\(([^()]*)\)", r"e^{\1}", text)
    text = re.sub(r"\\exp\s*\(([^()]*)\)", r"e^{\1}", text)
    text = re.sub(rf"(?<![\\A-Za-z])({_FUNCTIONS})(?![A-Za-z])", r"\\\1 ", text)
    text = re.sub(r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi ", text)
    text = re.sub(r"(?<![\\A-Za-z])(?:inf|infty|infinity|oo)(?![A-Za-z])", r"\\infty ", text)
    text = re.sub(r"\*\*\s*(-?\w+)", r"^{\1}", text)
    text = re.sub(r"\^\s*\(([^()]*)\)", r"^{\1}", text)
    text = re.sub(r"(?<!\\)\*", r"\\cdot ", text)
    text = re.sub(r"\s*>=\s*", r"\\ge ", re.sub(r"\s*<=\s*", r"\\le ", text))
    text = re.sub(r"(?<![\\<>])!=", r"\\ne ", text)
    text = re.sub(r"(?<=[\w})])\s+(and|or)\s+(?=[\w\\{(-])", r"\\text{ \1 }", text)
    return text.replace("\n", " ").strip()


def _repeating(match: re.Match[str]) -> str:
    sign, whole, fixed, again = match.groups()
    over = 10 ** len(fixed) * (10 ** len(again) - 1)
    number = int((whole or "0") + fixed + again) - int((whole or "0") + fixed)
    return rf"{sign}\frac{{{number}}}{{{over}}}"


def _expression(latex: str, written: str) -> Any:
    if _DOTS.search(latex):
        raise Unreadable(f"{written!r} has dots, whose meaning is open")
    if latex.count("{") - latex.count("\\{") != latex.count("}") - latex.count("\\}"):
        raise Unreadable(f"{written!r} has braces that do not match")
    if (number := _number(latex)) is not None:
        return number
    library = math_verify()
    try:
        found = library.parse(
            f"${latex}$",
            [library.LatexExtractionConfig()],
            fallback_mode="no_fallback",
            # The whole formula or nothing: otherwise a fraction inside of it would be the answer.
            extraction_mode="first_match",
            parsing_timeout=None,
            raise_on_error=True,
        )
    except Exception as error:
        raise Unreadable(f"{written!r} could not be read: {error}") from error
    if not found:
        raise Unreadable(f"{written!r} could not be read")
    return found[0]


def _number(latex: str) -> Any:
    """Numbers without the reader, which takes fifty times as long; None for all else."""
    s = _sympy()
    text = latex.replace(" ", "")
    if re.fullmatch(r"[-+]?(?:\d+|\d{1,3}(?:,\d{3})+)", text):
        return s.Integer(int(text.replace(",", "")))
    if re.fullmatch(r"[-+]?\d*\.\d+", text):
        return s.Float(text, 15)
    found = _FRACTION.fullmatch(text)
    if found is None:
        return None
    above, below = (int(one) for one in found.groups()[1:] if one is not None)
    if below == 0:
        return None
    over = s.Rational(above, below)
    return -over if found[1] == "-" else over


@cache
def math_verify() -> Any:
    """The library.

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    try:
        library = importlib.import_module("math_verify")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{error.name} is not installed, which the verifier math needs; "
            "pip install 'preceptor[math]'"
        ) from error
    # It warns that its time limits are off, which is meant.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return library


@cache
def _sympy() -> Any:
    return importlib.import_module("sympy")
