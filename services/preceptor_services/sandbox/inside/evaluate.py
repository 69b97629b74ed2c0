"""Evaluates an expression on its inputs and writes the values to descriptor 3, one line each.

As a script, for sandboxes without a keeper, it reads the request as JSON on its standard input. It
uses the standard library only.
"""

from __future__ import annotations

import builtins
import json
import math
import os
import random
import sys
from typing import Any, cast

RESULT_FD = 3
MAX_ERROR_CHARS = 400


def run_cases(program: str, entry: str, inputs: list[str]) -> None:
    """Evaluates the program for each input, given as JSON, and writes a line for each."""
    try:
        code = compile(program, "<response>", "eval")
    except BaseException as error:
        _write({"program_error": _line(error)})
        return
    random.seed(0)  # fork has reseeded it
    for text in inputs:
        names: dict[str, Any] = {"__builtins__": builtins, entry: json.loads(text)}
        try:
            result = _result(eval(code, names))
            encoded = json.dumps(result, allow_nan=False).encode()
        except BaseException as error:
            encoded = json.dumps({"error": _line(error)}).encode()
        write_all(RESULT_FD, encoded + b"\n")


def _result(value: Any) -> dict[str, Any]:
    if _is_plain(value):
        return {"value": value}
    return {"other": repr(value)[:MAX_ERROR_CHARS]}


def _is_plain(value: Any) -> bool:
    """Whether the value is the same, with the same types, after a JSON round trip."""
    kind = cast("type[Any]", type(value))
    if kind is list:
        return all(_is_plain(item) for item in value)
    if kind is dict:
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    if kind is float:
        return math.isfinite(value)
    return value is None or kind in (bool, int, str)


def _line(error: BaseException) -> str:
    """The last line of the traceback; of a SyntaxError, the part without its position."""
    try:
        message = str(error.msg if isinstance(error, SyntaxError) else error)
        return f"{type(error).__name__}: {message}"[:MAX_ERROR_CHARS]
    except BaseException:
        return "an exception without a message"


def _write(message: dict[str, Any]) -> None:
    write_all(RESULT_FD, json.dumps(message).encode() + b"\n")


def write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


if __name__ == "__main__":
    sys.set_int_max_str_digits(0)
    asked = json.load(sys.stdin)
    run_cases(asked["program"], asked["entry"], asked["inputs"])
