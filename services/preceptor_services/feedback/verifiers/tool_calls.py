"""The response has to call the right tools with the right arguments."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from preceptor_clients.sdk.judging import Feedback, Response
from preceptor_services.feedback.verifiers.columns import value_of

_ACTION: Final = re.compile(r"^[^\S\n]*Action:[^\S\n]*(\S[^\n]*?)[^\S\n]*$", re.MULTILINE)
_INPUT: Final = re.compile(r"^[^\S\n]*Action Input:\s*", re.MULTILINE)
_TAGGED: Final = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_NAMES: Final = ("name", "Action", "action", "tool")
_ARGUMENTS: Final = ("arguments", "Action_Input", "action_input", "parameters", "args", "input")
_NOT_JSON: Final = (ValueError, RecursionError)
"""The second is raised where brackets are nested a thousand deep."""
_SHOWN: Final = 5


class _Malformed(ValueError):
    """A call cannot be read; the message says why."""


@dataclass(frozen=True)
class Call:
    """One call of a tool."""

    name: str
    arguments: Mapping[str, Any]


def tool_calls(
    row: Mapping[str, Any],
    response: Response,
    *,
    answer: str = "answer",
    match: Literal["merged", "calls"] = "merged",
) -> Feedback:
    """Compares the tools that are called, each as often as wanted in any order, and the arguments.

    Read are lines `Action:` and `Action Input:` with JSON, `<tool_call>` with a JSON object, and
    otherwise JSON objects with `name` and `arguments`.

    Args:
        row: The row of data.
        response: The student's text.
        answer: Column with the calls: a list of objects, or JSON of one, with `name` and
            `arguments`, or with `Action` and `Action_Input`.
        match: `merged` puts the arguments of all calls into one object, as the papers do; `calls`
            compares each call with its own arguments.
    """
    wanted = _wanted(value_of(row, answer), answer)
    cut = "the response was cut off; " if response.cut_off else ""
    try:
        given = calls_in(response)
    except _Malformed as error:
        return Feedback(0.0, f"{cut}{error}")
    wrong = _wrong_names(wanted, given)
    if match == "merged":
        wrong += _wrong_arguments(_merged(wanted), _merged(given))
    elif not wrong:
        wrong = _wrong_calls(wanted, given)
    if not wrong:
        return Feedback(1.0)
    more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return Feedback(0.0, cut + "; ".join(wrong[:_SHOWN]) + more)


def calls_in(text: str) -> list[Call]:
    """The calls of a response, in their order.

    Raises:
        ValueError: a call cannot be read.
    """
    tagged = _TAGGED.findall(text)
    if tagged:
        return [_call(_json(body.strip(), "the text in <tool_call>")) for body in tagged]
    if _ACTION.search(text):
        return list(_actions(text))
    return [_call(value) for value in _objects(text) if _has_name(value)]


def _actions(text: str) -> Iterator[Call]:
    starts = list(_ACTION.finditer(text))
    ends = [match.start() for match in starts[1:]] + [len(text)]
    for match, end in zip(starts, ends, strict=True):
        part = text[match.end() : end]
        found = _INPUT.search(part)
        if found is None:
            raise _Malformed(f"the call of {match[1]} has no line `Action Input:`")
        yield Call(match[1], _first_object(part[found.end() :], match[1]))


def _first_object(text: str, name: str) -> Mapping[str, Any]:
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
    except _NOT_JSON as error:
        raise _Malformed(f"the input of the call of {name} is not JSON: {error}") from None
    return _as_object(value, name)


def _objects(text: str) -> Iterator[Any]:
    """The JSON objects of a text, those of a list one by one."""
    decoder = json.JSONDecoder()
    place = 0
    while (match := re.compile(r"[{\[]").search(text, place)) is not None:
        try:
            value, place = decoder.raw_decode(text, match.start())
        except _NOT_JSON:
            place = match.end()
            continue
        yield from cast("list[Any]", value) if isinstance(value, list) else [value]


def _has_name(value: Any) -> bool:
    return isinstance(value, dict) and ("function" in value or any(n in value for n in _NAMES))


def _call(value: Any) -> Call:
    if not isinstance(value, dict):
        raise _Malformed(f"a call is a {type(value).__name__}, not a JSON object")
    fields = cast("dict[str, Any]", value)
    if isinstance(fields.get("function"), dict):
        fields = cast("dict[str, Any]", fields["function"])
    name = next((fields[key] for key in _NAMES if key in fields), None)
    if not isinstance(name, str):
        raise _Malformed("a call has no name")
    arguments = next((fields[key] for key in _ARGUMENTS if key in fields), None)
    if isinstance(arguments, str):
        arguments = _json(arguments or "{}", f"the input of the call of {name}")
    return Call(name, _as_object(arguments, name))


def _as_object(value: Any, name: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _Malformed(f"the input of the call of {name} is not a JSON object")
    return cast("dict[str, Any]", value)


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except _NOT_JSON as error:
        raise _Malformed(f"{what} is not JSON: {error}") from None


def _wanted(value: Any, column: str) -> list[Call]:
    try:
        listed = _json(value, "the text") if isinstance(value, str) else value
        calls = cast("list[Any]", listed) if isinstance(listed, list) else [listed]
        return [_call(one) for one in calls]
    except _Malformed as error:
        # Not the student's mistake: an error of the row, and no score.
        raise ValueError(f"the column {column!r} is no list of calls: {error}") from None


def _wrong_names(wanted: list[Call], given: list[Call]) -> list[str]:
    right, called = Counter(c.name for c in wanted), Counter(c.name for c in given)
    if not called and right:
        return [f"no tool is called; {', '.join(sorted(right.elements()))} should be"]
    missing = [f"{name} is not called{_times(n)}" for name, n in (right - called).items()]
    return missing + [f"{name} is called{_times(n)} too often" for name, n in
                      (called - right).items()]  # fmt: skip


def _times(number: int) -> str:
    return "" if number == 1 else f" {number} times"


def _merged(calls: list[Call]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for call in calls:
        merged.update(call.arguments)
    return merged


def _wrong_arguments(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    wrong = [
        f"the argument {name} is {_shown(given[name])}, not {_shown(value)}"
        for name, value in wanted.items()
        if name in given and not _same(value, given[name])
    ]
    wrong += [
        f"the argument {n} is missing; it is {_shown(wanted[n])}" for n in wanted if n not in given
    ]
    return wrong + [f"the argument {name} is not wanted" for name in given if name not in wanted]


def _wrong_calls(wanted: list[Call], given: list[Call]) -> list[str]:
    """What differs, where the names agree: each call that is left over beside one of its name."""
    left, wrong = list(given), list[str]()
    missing: list[Call] = []
    for call in wanted:
        same = next((one for one in left if _same_call(one, call)), None)
        missing.append(call) if same is None else left.remove(same)
    for call in missing:
        other = next(one for one in left if one.name == call.name)
        left.remove(other)
        wrong += [
            f"{call.name}: {text}" for text in _wrong_arguments(call.arguments, other.arguments)
        ]
    return wrong


def _same_call(one: Call, other: Call) -> bool:
    return one.name == other.name and _same(one.arguments, other.arguments)


def _same(one: Any, other: Any) -> bool:
    """Equality of JSON: 1 is 1.0, and neither is true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        first, second = cast("dict[str, Any]", one), cast("dict[str, Any]", other)
        return first.keys() == second.keys() and all(_same(first[k], second[k]) for k in first)
    if isinstance(one, list) and isinstance(other, list):
        left, right = cast("list[Any]", one), cast("list[Any]", other)
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(one == other)


def _shown(value: Any, limit: int = 80) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[:limit] + "..."
