"""What an expert may read of a failed program.

As in SDPO (arXiv 2601.20802, `verl/utils/reward_score/feedback/code.py` of its code): of the
failing cases the first run-time error alone, else the first timeout alone, else the two shortest
wrong answers, each with its input, output and expected output, all with caps. Cases that the task
hides are told only where no shown one fails, and only that they fail, and how.

    Test Case 2: Wrong Answer

    Input
    4 5

    Output
    20

    Expected
    9
"""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import JsonValue

from preceptor_clients.contract.execution import Visibility
from preceptor_clients.contract.programs import ProgramCase, ProgramMode

CaseEnd = Literal["passed", "wrong", "error", "memory", "output", "timeout"]
MAX_VALUE_CHARS: Final = 250
MAX_INPUT_LINES: Final = 8
MAX_DEBUG_LINES: Final = 10
MAX_DEBUG_CHARS: Final = 300
MAX_ERROR_CHARS: Final = 1000
MAX_CHARS: Final = 2000
MAX_WRONG_ANSWERS: Final = 2
MAX_FRAMES: Final = 3

CUT_OFF: Final = (
    "Truncated Attempt: the response reached the maximum length and was cut off. Try again with a "
    "shorter response."
)
NO_PROGRAM: Final = "Incorrect Format: put your code inside a ```{language} ... ``` block."
HIDDEN: Final = "This test is hidden: its input and its expected output are not shown."
_HEADERS: Final[dict[CaseEnd, str]] = {
    "error": "Runtime Error",
    "memory": "Memory Limit Exceeded",
    "output": "Output Limit Exceeded",
    "timeout": "Time Limit Exceeded",
}
_RANKS: Final[dict[CaseEnd, int]] = {"error": 0, "memory": 0, "output": 0, "timeout": 1, "wrong": 2}
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")
_TRACEBACK: Final = "Traceback (most recent call last):\n"
_FRAME: Final = re.compile(r'  File "(?:.*/)?solution\.py", line (\d+)(?:, in (.+))?')
_ERRORS: Final = frozenset(
    name
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException)
)


@dataclass(frozen=True, kw_only=True)
class CaseReport:
    """How a program did on one case."""

    number: int
    """From 1, over all cases of the task."""
    visibility: Visibility
    case: ProgramCase
    end: CaseEnd
    got: str = ""
    """What it wrote or returned."""
    error: str = ""
    """What it wrote about its error, where it had one."""
    debug: str = ""
    """What it wrote beside its answer."""


def failure_text(
    reports: Sequence[CaseReport],
    mode: ProgramMode,
    *,
    compile_error: str | None = None,
    cut_off: bool = False,
) -> str:
    """What an expert may read; empty where no case failed.

    Args:
        reports: Of the cases that ran, in order.
        mode: Of the task.
        compile_error: Why there is no program, where the source could not be compiled.
        cut_off: Whether the response reached the length limit.
    """
    if compile_error is not None:
        parts = [f"Compile Error\n{clip(compile_error, MAX_ERROR_CHARS)}"]
    else:
        parts = [_case_text(report, mode) for report in told(reports)]
    if not parts:
        return ""
    end = f"\n\n{CUT_OFF}" if cut_off else ""
    return clip("\n\n".join(parts), MAX_CHARS - len(end)) + end


def told(reports: Sequence[CaseReport]) -> list[CaseReport]:
    """The failing cases that are told."""
    failing = [report for report in reports if report.end != "passed"]
    failing = [report for report in failing if report.visibility == "shown"] or failing
    if not failing:
        return []
    first = min(failing, key=lambda report: _RANKS[report.end])
    if first.end != "wrong":
        return [first]
    if first.visibility == "hidden":
        return [first]
    return sorted(failing, key=lambda r: len(written(r.case.input)) + len(r.got))[
        :MAX_WRONG_ANSWERS
    ]


def _case_text(report: CaseReport, mode: ProgramMode) -> str:
    if report.visibility == "hidden":
        return _hidden_text(report)
    if report.end == "wrong":
        return "\n\n".join(
            (
                f"Test Case {report.number}: Wrong Answer",
                f"Input\n{_input(report.case.input, mode)}",
                f"Output\n{clip(clean(report.got).strip(), MAX_VALUE_CHARS)}",
                f"Expected\n{clip(clean(_expected(report.case, mode)).strip(), MAX_VALUE_CHARS)}",
                *_debug(report.debug),
            )
        )
    error = clip(clean(report.error).strip(), MAX_ERROR_CHARS)
    return "\n\n".join(
        (
            _HEADERS[report.end] + (f"\n{error}" if error else ""),
            f"Last Executed Input\n{_input(report.case.input, mode)}",
            *_debug(report.debug),
        )
    )


def _hidden_text(report: CaseReport) -> str:
    if report.end == "wrong":
        return f"Test Case {report.number}: Wrong Answer\n\n{HIDDEN}"
    # The program chose its message, and may have put the input there.
    name = report.error.partition("\n")[0].partition(":")[0].strip()
    kind = f"\n{name}" if name in _ERRORS else ""
    return f"{_HEADERS[report.end]}{kind}\n\n{HIDDEN}"


def _input(value: JsonValue, mode: ProgramMode) -> str:
    """Its first lines; of a function's arguments, one a line."""
    if mode == "function" and isinstance(value, list):
        lines = [as_json(argument) for argument in value]
    else:
        lines = written(value).strip("\n").split("\n")
    shown = [clip(clean(line), MAX_VALUE_CHARS) for line in lines[:MAX_INPUT_LINES]]
    more = len(lines) - len(shown)
    return "\n".join([*shown, f"... ({more} more lines)"] if more else shown)


def _debug(text: str) -> list[str]:
    lines = clean(text).strip().split("\n")
    if lines == [""]:
        return []
    shown = [clip(line, MAX_DEBUG_CHARS) for line in lines[:MAX_DEBUG_LINES]]
    more = len(lines) - len(shown)
    return ["\n".join(["Debug Output", *shown, *([f"... ({more} more lines)"] if more else [])])]


def short_trace(stderr: str) -> str:
    """Of a Python traceback the error and the last places in the program; else the last lines."""
    _, found, trace = stderr.rpartition(_TRACEBACK)
    if not found:
        return "\n".join(stderr.strip().split("\n")[-MAX_DEBUG_LINES:])
    lines = trace.rstrip("\n").split("\n")
    message = [line for line in lines if line[:1] not in ("", " ")]
    places: list[str] = []
    for line, source in zip(lines, [*lines[1:], ""], strict=True):
        if frame := _FRAME.fullmatch(line):
            where = f"Line {frame[1]}" + (f" in {frame[2]}" if frame[2] else "")
            code = source.strip()
            places += [*([f"  {code}"] if code and source[:4] == "    " else []), where]
    kept = places[-2 * MAX_FRAMES :]
    return "\n".join([*message[:3], *kept])


def _expected(case: ProgramCase, mode: ProgramMode) -> str:
    return as_json(case.expected) if mode == "function" else written(case.expected)


def written(value: JsonValue) -> str:
    """A text as it is, every other value as JSON."""
    return value if isinstance(value, str) else as_json(value)


def as_json(value: JsonValue) -> str:
    """A value so that `1` and `"1"` look different."""
    return json.dumps(value, ensure_ascii=False)


def clean(text: str) -> str:
    """Without control characters, which are not for a model, and addresses, which differ."""
    return _ADDRESS.sub("", _CONTROL.sub("", text.replace("\r\n", "\n")))


def clip(text: str, limit: int) -> str:
    """The first `limit` characters, and three dots where there are more."""
    return text if len(text) <= limit else text[:limit] + "..."
