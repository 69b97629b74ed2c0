"""Runs a Python program inside the sandbox: a script, with the standard library only.

    python main.py stdin               solution.py as a program, on standard input
    python main.py function NAME       NAME of solution.py, on the JSON list on standard input
    python main.py compile             compiles solution.py, and no more

A function's value goes to descriptor 3 as one line of JSON. This process holds no expected value,
and the program can do here whatever it likes: what comes out is only ever compared outside.

As in LiveCodeBench, names of the usual modules are there without an import, and `sys.exit` ends a
program like its last line does.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import types
from typing import Any, cast

RESULT_FD = 3
SOLUTION = "solution.py"
MAX_REPR = 2000
STARRED = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random",
    "statistics", "itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing",
)  # fmt: skip
"""Imported with a star, in this order, and then by name."""


def main() -> None:
    mode = sys.argv[1]
    sys.setrecursionlimit(50_000)
    sys.set_int_max_str_digits(0)
    with open(SOLUTION, encoding="utf-8") as file:
        source = file.read()
    if mode == "compile":
        compile(source, SOLUTION, "exec")
        return
    module = types.ModuleType("__main__" if mode == "stdin" else "solution")
    sys.modules[module.__name__] = module
    names = vars(module)
    exec(_prelude(), names)
    if mode == "stdin":
        _run(source, names)
    else:
        _call(source, names, sys.argv[2])


def _prelude() -> str:
    return "".join(f"from {name} import *\n" for name in STARRED) + "".join(
        f"import {name}\n" for name in STARRED if name not in ("builtins", "typing")
    )


def _run(source: str, names: dict[str, Any]) -> None:
    with contextlib.suppress(SystemExit):
        exec(compile(source, SOLUTION, "exec"), names)


def _call(source: str, names: dict[str, Any], entry: str) -> None:
    arguments = json.loads(sys.stdin.read())
    exec(compile(source, SOLUTION, "exec"), names)
    owner = names.get("Solution")
    function = getattr(owner(), entry) if isinstance(owner, type) else names.get(entry)
    if not callable(function):
        raise NameError(f"the program defines no function {entry}")
    value: Any = function(*arguments)
    if isinstance(value, tuple):
        value = list(cast("tuple[Any, ...]", value))
    try:
        found = {"value": plain(value)}
        line = json.dumps(found, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        line = json.dumps({"other": repr(value)[:MAX_REPR]})
    _write(line.encode() + b"\n")


def plain(value: Any) -> Any:
    """The value in JSON's own types, for whatever equals a value of these."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, list):
        return [plain(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        if not all(isinstance(key, str) for key, _ in items):
            raise TypeError("a key is not a text")
        return {str(key): plain(item) for key, item in items}
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return plain(value.item())
    raise TypeError(type(value).__name__)


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(RESULT_FD, data) :]


if __name__ == "__main__":
    main()
