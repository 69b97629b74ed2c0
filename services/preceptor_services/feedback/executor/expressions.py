"""Judges expressions: `preceptor_clients.contract.execution` says what they are.

All cases of an attempt run in one process of the sandbox, which returns their values.
"""

from __future__ import annotations

from typing import Final

from pydantic import JsonValue

from preceptor_clients.contract.comparison import compact, without_spaces
from preceptor_clients.contract.execution import (
    CaseReport,
    ExecutionCase,
    ExecutionReport,
    ExecutionTask,
    Visibility,
    clip,
    ended_case,
    valued_case,
)
from preceptor_clients.contract.schemas import FeedbackQuery
from preceptor_services.sandbox.isolation import (
    CaseResult,
    Isolation,
    Limits,
    Outcome,
    ProgramRun,
)

MAX_RECORDED_CHARS: Final = 200
CUT_OFF: Final = "the response was cut off at the length limit"
EMPTY: Final = "the response is empty"


def examine(
    query: FeedbackQuery, task: ExecutionTask, box: Isolation, limits: Limits
) -> ExecutionReport:
    """Runs a response in the sandbox and compares its values with the expected ones.

    Raises:
        IsolationFailed: The sandbox failed; the response is not judged.
    """
    isolation = str(box.describe().get("level", "unknown"))
    program = query.response_text.strip()
    if query.finish_reason == "length" or not program:
        error = CUT_OFF if query.finish_reason == "length" else EMPTY
        return ExecutionReport(program_error=error, isolation=isolation)
    cases = task.cases()
    attempt = ProgramRun(
        program=program, entry=task.entry, inputs=tuple(case.input for _, case in cases)
    )
    outcome = box.run(attempt, limits)
    if outcome.program_error is not None:
        return ExecutionReport(program_error=outcome.program_error, isolation=isolation)
    return ExecutionReport(cases=_case_reports(task, outcome), isolation=isolation)


def _case_reports(task: ExecutionTask, outcome: Outcome) -> tuple[CaseReport, ...]:
    reports: list[CaseReport] = []
    for index, (visibility, case) in enumerate(task.cases()):
        if index < len(outcome.results):
            reports.append(_case_report(visibility, case, outcome.results[index]))
        else:
            assert outcome.ended != "finished"
            reports.append(ended_case(visibility, case, outcome.ended))
    return tuple(reports)


def _case_report(visibility: Visibility, case: ExecutionCase, result: CaseResult) -> CaseReport:
    if result.error is not None:
        return ended_case(visibility, case, "exception", error=result.error)
    if result.other is None:
        return valued_case(visibility, case, result.value)
    # An object can choose its own repr; only a real JSON value can equal the expected one.
    written = without_spaces(result.other)
    looks_right = written == compact(case.expected)
    got = f"an object that looks like {written}" if looks_right else written
    return ended_case(visibility, case, "wrong", got=got)


def recorded(report: ExecutionReport) -> dict[str, JsonValue]:
    """The report for provenance: every case, with long values cut."""
    cases: list[JsonValue] = [
        {
            name: clip(value, MAX_RECORDED_CHARS)
            for name, value in case.model_dump(exclude_none=True).items()
        }
        for case in report.cases
    ]
    passed = sum(case.outcome == "passed" for case in report.cases)
    record: dict[str, JsonValue] = {"passed": passed, "cases": cases}
    if report.program_error is not None:
        record["program_error"] = clip(report.program_error, MAX_RECORDED_CHARS)
    return record
