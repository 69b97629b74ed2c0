"""The response has to say of everybody whether they are a knight or a knave."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from preceptor_clients.sdk.judging import Feedback, Response
from preceptor_services.feedback.verifiers.columns import value_of
from preceptor_services.feedback.verifiers.marked import last_tagged

_LINE: Final = re.compile(r"^\W*(?:\d+\W+)?(\w[\w .'-]*?)\s+is\s+an?\s+(\w+)", re.MULTILINE)


def knights_and_knaves(
    row: Mapping[str, Any],
    response: Response,
    *,
    answer: str = "answer",
    names: str = "names",
    words: str = "knight_knave",
    tag: str = "answer",
) -> Feedback:
    """Reads `NAME is a knight` or `NAME: knight` for everybody, in `<answer>` where it is there.

    Args:
        row: The row of data.
        response: The student's text.
        answer: Column with the solution: lines `(1) NAME is a knight`, an object from names to
            roles, or a list with true for each knight in the order of `names`.
        names: Column with the names, for a list as the solution.
        words: Column with other words for the two roles, under `knight` and `knave`.
        tag: Tag around the final answer; in a response without it the last word on each name
            counts.
    """
    knight, knave = _roles(row.get(words))
    wanted = _wanted(row, answer, names, (knight, knave))
    marked = last_tagged(response, tag)
    said = {name: _said(response if marked is None else marked, name, (knight, knave),
                        last=marked is None) for name in wanted}  # fmt: skip
    wrong = [text for name, role in wanted.items() if (text := _wrong(name, role, said[name]))]
    if not wrong:
        return Feedback(1.0)
    cut = "the response was cut off; " if response.cut_off else ""
    return Feedback(0.0, cut + "; ".join(wrong))


def _roles(words: Any) -> tuple[str, str]:
    given = cast("dict[str, Any]", words) if isinstance(words, dict) else {}
    return str(given.get("knight") or "knight").lower(), str(given.get("knave") or "knave").lower()


def _wanted(
    row: Mapping[str, Any], answer: str, names: str, roles: tuple[str, str]
) -> dict[str, str]:
    value = value_of(row, answer)
    if isinstance(value, str):
        found = {name.strip(): role.lower() for name, role in _LINE.findall(value)}
    elif isinstance(value, dict):
        given = cast("dict[str, Any]", value)
        found = {name: _role_of(role, roles) for name, role in given.items()}
    else:
        named = cast("Sequence[Any]", value_of(row, names))
        flags = cast("Sequence[Any]", value)
        if len(named) != len(flags):
            raise ValueError(f"{answer!r} has {len(flags)} roles for {len(named)} names")
        found = {str(n): _role_of(one, roles) for n, one in zip(named, flags, strict=True)}
    if not found or not {*found.values()} <= {*roles}:
        raise ValueError(f"the column {answer!r} does not say who is a {roles[0]}: {value!r}")
    return found


def _role_of(value: Any, roles: tuple[str, str]) -> str:
    return roles[0 if value else 1] if isinstance(value, (bool, int)) else str(value).lower()


def _said(text: str, name: str, roles: tuple[str, str], *, last: bool) -> list[str]:
    """The roles that a text gives somebody, each once; only the last one where asked."""
    pattern = (
        rf"(?<!\w){re.escape(name)}(?!\w)[*_]*\s*(?:\bis\b|\bmust be\b|[:=-]|→)\s*[*_]*"
        rf"(?:an?\s+)?[*_]*({re.escape(roles[0])}|{re.escape(roles[1])})(?!\w)"
    )
    found = [role.lower() for role in re.findall(pattern, text, re.IGNORECASE)]
    return found[-1:] if last else list(dict.fromkeys(found))


def _wrong(name: str, role: str, said: list[str]) -> str | None:
    match said:
        case []:
            return f"nothing is said of {name}, who is a {role}"
        case [one]:
            return None if one == role else f"{name} is a {role}, not a {one}"
        case _:
            return f"{name} is said to be both; {name} is a {role}"
