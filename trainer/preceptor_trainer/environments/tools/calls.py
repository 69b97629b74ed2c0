"""Calls of tools in the student's text, in the forms that models are trained to write.

    hermes   <tool_call>{"name": "lookup", "arguments": {"key": "a"}}</tool_call>
    json     the same object, or a list of them, as the whole turn
    fence    ```lookup, the only argument, ```
    react    Action: lookup, then Action Input: {"key": "a"}
    turn     the whole turn is the only argument of the only tool; the last turn is the answer

A turn without a call ends the attempt. A call that cannot be read is answered with what is wrong
with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

CallForm = Literal["hermes", "json", "fence", "react", "turn"]
_HERMES: Final = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
_FENCE: Final = re.compile(r"^```([\w.-]+)[ \t]*\n(.*?)\n?```", re.DOTALL | re.MULTILINE)
_REACT: Final = re.compile(
    r"^Action:[ \t]*(.+?)[ \t]*\n+Action[ _]Input:[ \t]*(.*?)"
    r"(?=^(?:Action|Thought|Observation|Final Answer)\b|\Z)",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of the student."""

    name: str = ""
    """Empty where the form names none: the only tool is meant."""
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])
    text: str | None = None
    """The only argument, where the form has no names for arguments."""
    problem: str | None = None
    """Why it cannot be read, for the student."""


def calls_in(text: str, form: CallForm, names: Sequence[str]) -> list[Call]:
    """The calls of one turn.

    Args:
        text: The turn.
        form: How calls are written.
        names: Tools; a fence with another word is no call.
    """
    return _READERS[form](text, names)


def _hermes(text: str, names: Sequence[str]) -> list[Call]:
    del names
    return [call for body in _HERMES.findall(text) for call in _from_json(body)]


def _json(text: str, names: Sequence[str]) -> list[Call]:
    del names
    body = text.strip()
    return _from_json(body) if body.startswith(("{", "[")) else []


def _fence(text: str, names: Sequence[str]) -> list[Call]:
    return [Call(name=name, text=body) for name, body in _FENCE.findall(text) if name in names]


def _react(text: str, names: Sequence[str]) -> list[Call]:
    del names
    return [_react_call(name, body.strip()) for name, body in _REACT.findall(text)]


def _react_call(name: str, body: str) -> Call:
    try:
        value: Any = json.loads(body)
    except ValueError:
        return Call(name=name, text=body)
    if isinstance(value, dict):
        return Call(name=name, arguments=cast("dict[str, Any]", value))
    return Call(name=name, text=body)


def _turn(text: str, names: Sequence[str]) -> list[Call]:
    return [Call(name=names[0], text=text)]


def _from_json(body: str) -> list[Call]:
    try:
        value: Any = json.loads(body)
    except ValueError as error:
        return [Call(problem=f"the call is no JSON: {error}")]
    values = cast("list[Any]", value) if isinstance(value, list) else [value]
    return [_named(one) for one in values]


def _named(value: Any) -> Call:
    if not isinstance(value, dict):
        return Call(problem='the call is no object with "name" and "arguments"')
    call = cast("Mapping[str, Any]", value)
    call = cast("Mapping[str, Any]", call.get("function", call))
    name, arguments = call.get("name"), call.get("arguments", call.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            return Call(problem=f'"arguments" are no JSON: {error}')
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return Call(problem='the call needs a "name" and "arguments", which is an object')
    return Call(name=name, arguments=cast("dict[str, Any]", arguments))


_READERS: Final[Mapping[CallForm, Callable[[str, Sequence[str]], list[Call]]]] = {
    "hermes": _hermes,
    "json": _json,
    "fence": _fence,
    "react": _react,
    "turn": _turn,
}
