"""What an executor is asked, what it reports, and what an expert is told of it.

Used by the executor service, which runs the program in a process of its own, and by the student's
pretraining corpus, so that the text an expert reads is written by one function.

The task is JSON, in the payload of a feedback query:

    {"language": "python", "mode": "expression", "entry": "x",
     "shown":  [{"input": [3, 1], "expected": [1, 3]}],
     "hidden": [{"input": [], "expected": []}]}

In mode `expression` the response text, stripped of white space around it, is one Python expression;
each case binds its `input` to the name `entry`, evaluates the expression, and passes when the
value is the expected one (`comparison.py`).

The feedback text is short because small students read bytes: one line a failing case,
`INPUT->EXPECTED not GOT`, as in `[3,1]->[1,3] not [3,1]`. Hidden cases come first, since the
shown ones stand in the prompt already. The order of kinds follows SDPO (arXiv 2601.20802): a
program that does not compile alone, else the first exception alone, else the first timeout alone,
else the shortest wrong answers. The caps are tighter than theirs.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from preceptor_clients.contract.comparison import compact, same_value
from preceptor_clients.contract.schemas import FeedbackKind

MAX_VALUE_CHARS = 48
MAX_ERROR_CHARS = 80
MAX_WRONG_ANSWERS = 2

Outcome = Literal["passed", "wrong", "exception", "timeout", "output_limit", "crashed"]
Visibility = Literal["shown", "hidden"]


KIND: Final[FeedbackKind] = "execution"
"""Of the feedback items that an executor makes."""


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ExecutionCase(_Wire):
    """One input with the value that a right program gives."""

    input: JsonValue
    expected: JsonValue


class ExecutionTask(_Wire):
    """The payload of an execution task."""

    language: Literal["python"] = "python"
    mode: Literal["expression"] = "expression"
    entry: str = "x"
    shown: tuple[ExecutionCase, ...] = ()
    hidden: tuple[ExecutionCase, ...] = ()

    @field_validator("entry")
    @classmethod
    def _entry_is_a_name(cls, entry: str) -> str:
        if not entry.isidentifier():
            raise ValueError(f"entry must be a Python name, got {entry!r}")
        return entry

    def cases(self) -> list[tuple[Visibility, ExecutionCase]]:
        """All cases in the order in which they run: shown, then hidden."""
        shown: list[tuple[Visibility, ExecutionCase]] = [("shown", case) for case in self.shown]
        return shown + [("hidden", case) for case in self.hidden]


class CaseReport(_Wire):
    """How one case went; `input`, `expected` and `got` are compact text."""

    visibility: Visibility
    input: str
    expected: str
    outcome: Outcome
    got: str | None = None
    error: str | None = Field(default=None, description="The last line of the traceback.")


class ExecutionReport(_Wire):
    """How a response did on its task."""

    cases: tuple[CaseReport, ...] = ()
    program_error: str | None = Field(
        default=None, description="Why the program could not be run at all, such as a SyntaxError."
    )
    isolation: str = Field(description="The isolation that the program ran under.")

    @property
    def solved(self) -> bool:
        """True when the program ran and every case, shown and hidden, passed."""
        return (
            self.program_error is None
            and len(self.cases) > 0
            and all(case.outcome == "passed" for case in self.cases)
        )


def valued_case(visibility: Visibility, case: ExecutionCase, value: object) -> CaseReport:
    """Reports a case that gave a value."""
    passed = same_value(value, case.expected)
    return ended_case(visibility, case, "passed" if passed else "wrong", got=compact(value))


def ended_case(
    visibility: Visibility,
    case: ExecutionCase,
    outcome: Outcome,
    *,
    got: str | None = None,
    error: str | None = None,
) -> CaseReport:
    """Reports a case whose outcome is known; `got` is compact, `error` an exception's line."""
    return CaseReport(
        visibility=visibility,
        input=compact(case.input),
        expected=compact(case.expected),
        outcome=outcome,
        got=got,
        error=error,
    )


def feedback_text(report: ExecutionReport) -> str:
    """Returns what an expert may read about a failed attempt; empty for a solved one."""
    if report.program_error is not None:
        return clip(report.program_error, MAX_ERROR_CHARS)
    failures = [case for case in report.cases if case.outcome != "passed"]
    for outcome in ("exception", "timeout", "output_limit", "crashed"):
        alone = [case for case in failures if case.outcome == outcome]
        if alone:
            return failure_line(alone[0])
    return "\n".join(_shortest_lines(failures))


def _shortest_lines(failures: list[CaseReport]) -> list[str]:
    """Up to `MAX_WRONG_ANSWERS` lines, those of hidden cases first, each group by length."""
    lines = [(case.visibility != "hidden", failure_line(case)) for case in failures]
    ordered = sorted(lines, key=lambda pair: (pair[0], len(pair[1]), pair[1]))
    return [line for _, line in ordered[:MAX_WRONG_ANSWERS]]


def failure_line(case: CaseReport) -> str:
    """One failing case as `INPUT->EXPECTED not GOT`."""
    words: dict[Outcome, str] = {
        "exception": clip(case.error or "an exception", MAX_ERROR_CHARS),
        "timeout": "a timeout",
        "output_limit": "so much output",
        "crashed": "a crash",
    }
    got = words.get(case.outcome) or clip(case.got or "nothing", MAX_VALUE_CHARS)
    given, wanted = clip(case.input, MAX_VALUE_CHARS), clip(case.expected, MAX_VALUE_CHARS)
    return f"{given}->{wanted} not {got}"


def clip(text: str, limit: int) -> str:
    """Cuts to `limit` characters, the last three of them dots."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
