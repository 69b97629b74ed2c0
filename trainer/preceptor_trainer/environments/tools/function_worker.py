"""The process in which a function of the user's is called as a tool: one JSON value a line.

    {"function": "tools.py:lookup"}            ->  {"tool": {...}, "version": "..."}
    {"arguments": {"key": "a"}}                ->  {"output": "..."}   or   {"error": "..."}

What the function prints goes to standard error.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import inspect
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from preceptor_clients.sdk.judging import load_judge

_PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    """Serves calls until standard input ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    calls, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)

    def write(reply: dict[str, Any]) -> None:
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.flush()

    try:
        function = load_judge(json.loads(calls.readline())["function"])
        arguments = arguments_of(function)
        write({"tool": _described(function, arguments), "version": _version(function)})
    except BaseException as error:
        write({"error": _said(error)})
        return
    for line in calls:
        write(_called(function, arguments, json.loads(line)["arguments"]))


def arguments_of(function: Callable[..., Any]) -> type[BaseModel]:
    """The function's arguments as a model that checks them."""
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            raise TypeError(
                f"{function.__name__}: a tool's arguments have names, {name!r} has none"
            )
        hint = str if parameter.annotation is parameter.empty else parameter.annotation
        fields[name] = (hint, ... if parameter.default is parameter.empty else parameter.default)
    return create_model("Arguments", __config__=ConfigDict(extra="forbid"), **fields)


def _described(function: Callable[..., Any], arguments: type[BaseModel]) -> dict[str, Any]:
    schema = arguments.model_json_schema()
    properties = {
        name: {key: value for key, value in of.items() if key != "title"}
        for name, of in cast("dict[str, dict[str, Any]]", schema.get("properties", {})).items()
    }
    rest = {key: schema[key] for key in ("required", "$defs") if key in schema}
    return {
        "name": function.__name__,
        "description": inspect.getdoc(function) or function.__name__,
        "parameters": {"type": "object", "properties": properties, **rest},
    }


def _called(
    function: Callable[..., Any], arguments: type[BaseModel], given: dict[str, Any]
) -> dict[str, Any]:
    try:
        checked = arguments.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return {"error": f"argument {where}: {first['msg'].lower()}"}
    try:
        values = {name: getattr(checked, name) for name in type(checked).model_fields}
        returned: Any = function(**values)
        if inspect.isawaitable(returned):
            returned = asyncio.run(_awaited(returned))
        text = returned if isinstance(returned, str) else json.dumps(returned, ensure_ascii=False)
    except BaseException as error:  # a tool may raise anything, SystemExit too
        traceback.print_exc()
        return {"error": _said(error)}
    return {"output": text.encode("utf-8", "replace").decode()}


async def _awaited(value: Any) -> Any:
    return await value


def _said(error: BaseException) -> str:
    last = traceback.format_exception_only(error)[-1].strip()
    return last.encode("utf-8", "replace").decode()


def _version(function: Callable[..., Any]) -> str:
    source = inspect.getsourcefile(inspect.unwrap(function))
    body = b"unknown" if source is None else Path(source).read_bytes()
    return hashlib.sha256(body).hexdigest()[:16]


if __name__ == "__main__":
    main()
