"""The results of an expression, read from what its process wrote, which is untrusted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, cast

from preceptor_services.sandbox.command import EndedBy
from preceptor_services.sandbox.isolation import CaseResult, Ended, Outcome

_LIMITS: Final[Mapping[EndedBy, Ended]] = {
    "cpu_time": "timeout",
    "wall_time": "timeout",
    "output": "output_limit",
}


def end_of(ended_by: EndedBy, exit_code: int | None) -> Ended:
    """How an expression ended, of how its process did."""
    if ended_by == "exit" and exit_code == 0:
        return "finished"
    return _LIMITS.get(ended_by) or "crashed"


def outcome(ended: Ended, reply: bytes, num_cases: int) -> Outcome:
    """The outcome in a child's reply, which is untrusted: the program can write to the pipe."""
    lines = reply.split(b"\n")[:-1]
    found = [_parsed(line) for line in lines[:num_cases]]
    if len(found) == 1 and isinstance(found[0].get("program_error"), str):
        return Outcome(results=(), ended=ended, program_error=_clean(found[0]["program_error"]))
    results: list[CaseResult] = []
    for entry in found:
        result = _case_result(entry)
        if result is None:
            break
        results.append(result)
    if ended == "finished" and len(results) < num_cases:
        ended = "crashed"
    return Outcome(results=tuple(results), ended=ended)


def _case_result(entry: dict[str, Any]) -> CaseResult | None:
    match entry:
        case {"value": value}:
            return CaseResult(value=value)
        case {"other": str() as other}:
            return CaseResult(other=_clean(other))
        case {"error": str() as error}:
            return CaseResult(error=_clean(error))
        case _:
            return None


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not valid JSON")


def _clean(text: str) -> str:
    """Removes addresses, which differ between runs, and lone surrogates, which UTF-8 cannot
    encode."""
    return re.sub(r" at 0x[0-9a-f]+", "", text).encode("utf-8", "replace").decode()
