"""A judge: one function that says how good a response is. `Function` makes a source of it.

    from preceptor_clients.sdk import Feedback

    def judge(row, response):
        if response.strip() == row["answer"]:
            return True
        return Feedback(0, f"the answer is {row['answer']}")

`row` is the row of data as a dict, `response` the student's text, which also knows how it ended.
The function may be `async`. It returns a number (1 is right, 0 is wrong), True or False, or a
`Feedback`. An exception is an error of the judge and never a score: the response is judged again
when it is next asked for. `NotJudged` says in plain words why it cannot be judged, and stays.

Verifiers are judges with a name. Every package can add some by entry points in the group
`preceptor.verifiers`: the entry's name is the verifier's, its value `module:function`.
"""

from __future__ import annotations

import ast
import importlib.util
import math
import numbers
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final, Literal

from preceptor_clients.contract.sections import nearest
from preceptor_clients.kit.naming import load_named

GROUP: Final = "preceptor.verifiers"
Judge = Callable[..., Any]
"""Takes a row, a response, and options by name."""
_FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Feedback:
    """What a judge found: a score, a text that the teacher may read, or both."""

    score: float | None = None
    """1 is right and 0 is wrong; numbers between and beyond are allowed. None gives no score."""
    text: str | None = None
    """What was wrong; the teacher reads it. None says nothing."""

    def __post_init__(self) -> None:
        if self.score is None and not self.text:
            raise ValueError("score: a Feedback has a score, a text, or both; this one has neither")
        # Written in files that no type checker has seen.
        object.__setattr__(self, "score", _number(self.score))
        object.__setattr__(self, "text", _text(self.text))


class NotJudged(Exception):
    """A judge raises it where it cannot tell right from wrong; its message is the item's error."""


class Response(str):
    """The student's text, without control tokens."""

    finish_reason: Literal["stop", "length"]
    """`length`: it was cut off at the limit."""
    turns: tuple[Mapping[str, str], ...]
    """All turns as `{"role": ..., "content": ...}`, where tools or an environment answered the
    student; the text itself is its last one. Empty for a response of one turn."""

    def __new__(
        cls,
        text: str,
        finish_reason: Literal["stop", "length"] = "stop",
        turns: Sequence[Mapping[str, str]] = (),
    ) -> Response:
        """A text that ended in this way."""
        made = super().__new__(cls, text)
        made.finish_reason = finish_reason
        made.turns = tuple(turns)
        return made

    @property
    def cut_off(self) -> bool:
        """Whether it was cut off at the limit of tokens."""
        return self.finish_reason == "length"


def as_feedback(returned: Any) -> Feedback:
    """What a judge returned, as a `Feedback`.

    Raises:
        TypeError: it is something else.
        ValueError: it is NaN or infinite.
    """
    if isinstance(returned, Feedback):
        return returned
    if not _is_number(returned):
        raise TypeError(
            f"the judge returned a {type(returned).__name__}; it has to return a number, True, "
            "False or Feedback(score, text)"
        )
    return Feedback(returned)


def _number(score: Any) -> float | None:
    if score is None:
        return None
    if not _is_number(score):
        raise TypeError(f"score: is a {type(score).__name__}, not a number")
    if not math.isfinite(score):
        raise ValueError(f"score: {score} is not a finite number")
    return float(score)


def _text(text: Any) -> str | None:
    if text is not None and not isinstance(text, str):
        raise TypeError(f"text: is a {type(text).__name__}, not a str")
    return text


def _is_number(value: object) -> bool:
    # A bool is a number too, and so are numpy's, whose bool does not say so.
    return isinstance(value, numbers.Real) or type(value).__name__ == "bool_"


def verifiers() -> Mapping[str, EntryPoint]:
    """The verifiers of all installed packages, by name."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def load_judge(spelled: str) -> Judge:
    """The function that `FILE.py:name`, `module:name` or a verifier's name names.

    A file's own folder is put on Python's path, so that it can import its neighbours.

    Raises:
        ValueError: there is no such file, module, name or verifier, or it is not a function.
    """
    place, colon, name = spelled.rpartition(":")
    if not colon:
        judge = _verifier(spelled).load()
    elif place.endswith(".py"):
        judge = _from_file(Path(place), name)
    else:
        judge = load_named(spelled)
    if not callable(judge):
        raise ValueError(f"{spelled}: is a {type(judge).__name__}, not a function")
    return judge


def check_judge(spelled: str) -> None:
    """Checks that a verifier has this name, or that the file has the function; runs neither.

    Raises:
        ValueError: it does not; the message says what there is.
    """
    place, colon, name = spelled.rpartition(":")
    if not colon:
        _verifier(spelled)
    elif place.endswith(".py"):
        _check_file(Path(place), name)


def _verifier(name: str) -> EntryPoint:
    known = verifiers()
    if name not in known:
        hint = nearest(name, sorted(known)) if known else "none is installed"
        raise ValueError(
            f"{name!r} is no verifier; {hint}; a function of yours is named FILE.py:NAME"
        )
    return known[name]


def _check_file(path: Path, name: str) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: is not Python: {error}") from None
    names = set(_names(tree))
    if name not in names and "*" not in names:
        functions = [node.name for node in tree.body if isinstance(node, _FUNCTIONS)]
        hint = nearest(name, functions) if functions else "it defines no function"
        raise ValueError(f"{path}: defines no function {name!r}; {hint}")


def _names(tree: ast.Module) -> Iterator[str]:
    """Everything that a module may define, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, _FUNCTIONS):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Name):
            yield node.id


def _from_file(path: Path, name: str) -> Judge:
    _check_file(path, name)
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None, "a file that ends in .py has a loader"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return getattr(module, name)
