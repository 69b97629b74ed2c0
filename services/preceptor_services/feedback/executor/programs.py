"""Runs a program on its cases and compares what comes out, outside of the sandbox.

Each case is a command of its own, so that nothing of one is left for the next. The program gets
inputs only. A case passes by what the program wrote, or what stands on the result descriptor, being
the expected answer; no other message of the program counts for anything.

Cases run in order until one fails otherwise than by a wrong answer: nothing after it can change the
score, and it alone is told.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from typing import Any, cast

from pydantic import JsonValue

from preceptor_clients.contract.execution import Visibility
from preceptor_clients.contract.json_text import read_json
from preceptor_clients.contract.programs import ProgramCase, ProgramTask
from preceptor_services.feedback.executor.failures import (
    CUT_OFF,
    NO_PROGRAM,
    CaseEnd,
    CaseReport,
    as_json,
    clean,
    clip,
    failure_text,
    short_trace,
    told,
    written,
)
from preceptor_services.feedback.executor.languages import (
    PYTHON_LANGUAGE,
    Build,
    Language,
    python_build,
    python_check,
)
from preceptor_services.feedback.executor.outputs import same_output, same_return
from preceptor_services.sandbox.command import Command, CommandLimits, Execution, Sandbox

NO_VALUE = "the program ended without returning a value"
MORE_VALUES = "the program wrote to the channel of its result"


class OutOfTime(Exception):
    """The caller stops waiting before all cases have run, and none has failed so far."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """How a response did."""

    solved: bool
    text: str
    """What an expert may read; empty for a solved attempt."""
    reports: tuple[CaseReport, ...] = ()
    """Of the cases that ran."""
    rung: str | None = None
    """What the program ran under; None where it did not run."""


@dataclass(frozen=True, kw_only=True)
class ProgramJudge:
    """Judges the programs of one task in one sandbox."""

    task: ProgramTask
    box: Sandbox
    limits: CommandLimits
    """Of each case."""
    compile_limits: CommandLimits
    languages: dict[str, Language]
    deadline: float
    """On the monotonic clock: when the caller stops waiting."""

    def judge(self, program: str | None, *, cut_off: bool) -> Judged:
        """Runs a program on all cases.

        Args:
            program: Its source; None where the response had none.
            cut_off: Whether the response reached the length limit.

        Raises:
            IsolationFailed: The sandbox failed; nothing is known about the program.
            OutOfTime: The caller stops waiting.
        """
        if program is None:
            missing = NO_PROGRAM.format(language=self.task.language)
            return Judged(solved=False, text=CUT_OFF if cut_off else missing)
        if time.monotonic() > self.deadline:
            raise OutOfTime
        build = self._build(program)
        if isinstance(build, str):
            text = failure_text((), self.task.mode, compile_error=build, cut_off=cut_off)
            return Judged(solved=False, text=text)
        reports, rung = self._run_all(build)
        error = self._python_error(program, reports)
        text = failure_text(reports, self.task.mode, compile_error=error, cut_off=cut_off)
        solved = all(report.end == "passed" for report in reports)
        return Judged(solved=solved, text=text, reports=tuple(reports), rung=rung)

    def _build(self, program: str) -> Build | str:
        """What the cases run, or why it could not be compiled."""
        task = self.task
        if task.language == PYTHON_LANGUAGE:
            return python_build(program, task.mode, task.entry)
        language = self.languages[task.language]
        files: dict[str, str | bytes] = {language.file: program}
        if language.compile:
            asked = Command(argv=language.compile, files=files, keep=language.keep)
            done = self.box.execute(asked, self.compile_limits)
            if done.ended_by != "exit" or done.exit_code != 0:
                return short_trace(_text(done.stderr)) or _why(done)
            files |= done.files
        return Build(argv=language.run, files=files)

    def _run_all(self, build: Build) -> tuple[list[CaseReport], str]:
        visible: list[tuple[Visibility, ProgramCase]] = [
            *(("shown", case) for case in self.task.shown),
            *(("hidden", case) for case in self.task.hidden),
        ]
        reports: list[CaseReport] = []
        rung = ""
        for number, (visibility, case) in enumerate(visible, start=1):
            if self._is_over(reports):
                break
            found = self.box.execute(build.command(written(case.input)), self.limits)
            rung = found.rung
            reports.append(self._report(number, visibility, case, found))
        return reports, rung

    def _report(
        self, number: int, visibility: Visibility, case: ProgramCase, found: Execution
    ) -> CaseReport:
        compare = self._compared_value if self.task.mode == "function" else self._compared_output
        end, got, error = _ended(found) or compare(case, found)
        stderr = "" if end == "error" else _text(found.stderr)
        said = _text(found.stdout) + stderr if self.task.mode == "function" else stderr
        return CaseReport(
            number=number,
            visibility=visibility,
            case=case,
            end=end,
            got=got,
            error=error,
            debug=said,
        )

    def _compared_output(self, case: ProgramCase, found: Execution) -> tuple[CaseEnd, str, str]:
        output = _text(found.stdout)
        passed = same_output(output, str(case.expected))
        return "passed" if passed else "wrong", output, ""

    def _compared_value(self, case: ProgramCase, found: Execution) -> tuple[CaseEnd, str, str]:
        lines = found.result.split(b"\n")
        if lines == [b""]:
            return "error", "", NO_VALUE
        result = _result(lines[0])
        if result is None or lines[1:] != [b""]:
            return "error", "", MORE_VALUES
        if "other" in result:
            return "wrong", str(result["other"]), ""
        value = result["value"]
        return "passed" if same_return(value, case.expected) else "wrong", as_json(value), ""

    def _python_error(self, program: str, reports: list[CaseReport]) -> str | None:
        """The error of a Python program that does not compile, where only a hidden case met it."""
        failing = told(reports)
        hidden = bool(failing) and failing[0].visibility == "hidden" and failing[0].end == "error"
        if self.task.language != PYTHON_LANGUAGE or not hidden:
            return None
        checked = self.box.execute(python_check(program), self.limits)
        return None if _ended(checked) is None else short_trace(_text(checked.stderr))

    def _is_over(self, reports: list[CaseReport]) -> bool:
        """Whether no further case is run."""
        if reports and reports[-1].end not in ("passed", "wrong"):
            return True
        if time.monotonic() <= self.deadline:
            return False
        if any(report.end == "wrong" for report in reports):
            return True  # the other cases could not change the score
        raise OutOfTime


def record(task: ProgramTask, judged: Judged) -> dict[str, JsonValue]:
    """The result for provenance: how each case ended, and what was shown of those that failed."""
    passed = sum(report.end == "passed" for report in judged.reports)
    most = task.record_chars
    cases: list[JsonValue] = [_recorded(report, most) for report in judged.reports]
    num_cases = len(task.shown) + len(task.hidden)
    return {"passed": passed, "num_cases": num_cases, "rung": judged.rung, "cases": cases}


def _recorded(report: CaseReport, most: int) -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = {"visibility": report.visibility, "outcome": report.end}
    if report.end != "passed" and report.visibility == "shown":
        told_of = {
            "input": written(report.case.input),
            "expected": written(report.case.expected),
            "got": report.got,
            "error": report.error,
        }
        found |= {n: clip(clean(v), most) for n, v in told_of.items() if v}
    return found


def _ended(found: Execution) -> tuple[CaseEnd, str, str] | None:
    """How a case ended that gave no answer."""
    match found.ended_by:
        case "exit" if found.exit_code == 0:
            return None
        case "cpu_time" | "wall_time":
            return "timeout", "", ""
        case "memory":
            return "memory", "", ""
        case "output":
            return "output", "", ""
        case _:
            return "error", "", short_trace(_text(found.stderr)) or _why(found)


def _why(found: Execution) -> str:
    match found.ended_by:
        case "signal" if found.signal is not None:
            return f"ended by {_signal_name(found.signal)}"
        case "files":
            return "wrote more files than the limit"
        case "exit":
            return f"ended with exit code {found.exit_code}"
        case other:
            return f"reached the limit of {other.replace('_', ' ')}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _result(line: bytes) -> dict[str, Any] | None:
    try:
        found = read_json(line)
    except ValueError:
        return None
    fields = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    return fields if fields.keys() in ({"value"}, {"other"}) else None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
