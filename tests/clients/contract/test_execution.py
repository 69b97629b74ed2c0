"""The executor's task, its report, and what an expert is told."""

import pytest
from pydantic import ValidationError

from preceptor_clients.contract.execution import (
    MAX_ERROR_CHARS,
    MAX_VALUE_CHARS,
    CaseReport,
    ExecutionCase,
    ExecutionReport,
    ExecutionTask,
    Outcome,
    Visibility,
    feedback_text,
    valued_case,
)


def _case(
    outcome: Outcome,
    *,
    given: str = "[1]",
    got: str | None = "[2]",
    visibility: Visibility = "hidden",
    error: str | None = None,
) -> CaseReport:
    return CaseReport(
        visibility=visibility, input=given, expected="[9]", outcome=outcome, got=got, error=error
    )


def _report(*cases: CaseReport) -> ExecutionReport:
    return ExecutionReport(cases=cases, isolation="none")


def test_a_solved_report_says_nothing() -> None:
    report = _report(_case("passed"), _case("passed"))

    assert report.solved
    assert feedback_text(report) == ""


def test_a_report_without_cases_is_not_solved() -> None:
    assert not _report().solved


def test_a_wrong_answer_is_told_with_input_expected_and_got() -> None:
    assert feedback_text(_report(_case("wrong"))) == "[1]->[9] not [2]"


def test_passing_cases_are_left_out() -> None:
    text = feedback_text(_report(_case("passed", given="[5]"), _case("wrong", given="[6]")))

    assert text == "[6]->[9] not [2]"


def test_the_shortest_hidden_wrong_answers_come_before_shown_ones() -> None:
    report = _report(
        _case("wrong", given="[]", visibility="shown"),
        _case("wrong", given="[1,2,3]"),
        _case("wrong", given="[1,2]"),
        _case("wrong", given="[1,2,3,4]"),
    )

    assert feedback_text(report) == "[1,2]->[9] not [2]\n[1,2,3]->[9] not [2]"


def test_a_shown_wrong_answer_fills_up_when_few_hidden_ones_fail() -> None:
    report = _report(_case("wrong", given="[7]", visibility="shown"), _case("wrong", given="[8]"))

    assert feedback_text(report) == "[8]->[9] not [2]\n[7]->[9] not [2]"


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (_case("exception", got=None, error="IndexError: no"), "[1]->[9] not IndexError: no"),
        (_case("timeout", got=None), "[1]->[9] not a timeout"),
        (_case("output_limit", got=None), "[1]->[9] not so much output"),
        (_case("crashed", got=None), "[1]->[9] not a crash"),
    ],
)
def test_a_failure_without_a_value_is_told_alone(case: CaseReport, words: str) -> None:
    assert feedback_text(_report(_case("wrong"), case, case)) == words


def test_an_exception_goes_before_a_timeout() -> None:
    timeout, exception = _case("timeout"), _case("exception", error="ValueError: x")

    assert "ValueError" in feedback_text(_report(timeout, exception))


def test_a_program_that_does_not_compile_is_told_alone() -> None:
    report = ExecutionReport(program_error="SyntaxError: invalid syntax", isolation="none")

    assert not report.solved
    assert feedback_text(report) == "SyntaxError: invalid syntax"


def test_long_values_and_errors_are_cut() -> None:
    wrong = feedback_text(_report(_case("wrong", got="9" * 1000)))
    error = feedback_text(ExecutionReport(program_error="E" * 1000, isolation="none"))

    assert wrong == f"[1]->[9] not {'9' * (MAX_VALUE_CHARS - 3)}..."
    assert len(error) == MAX_ERROR_CHARS


def test_a_case_passes_by_its_value() -> None:
    case = ExecutionCase(input=[3, 1], expected=[1, 3])

    assert valued_case("shown", case, [1, 3]).outcome == "passed"
    assert valued_case("shown", case, (1, 3)).outcome == "wrong"


def test_true_is_not_one() -> None:
    case = ExecutionCase(input=[1], expected=1)

    assert valued_case("hidden", case, True).outcome == "wrong"


def test_a_task_survives_json() -> None:
    task = ExecutionTask(
        shown=(ExecutionCase(input=[3, -1], expected=[-1, 3]),),
        hidden=(ExecutionCase(input=[], expected=0),),
    )

    assert ExecutionTask.model_validate_json(task.model_dump_json()) == task
    assert [visibility for visibility, _ in task.cases()] == ["shown", "hidden"]


def test_an_entry_that_is_no_name_is_refused() -> None:
    with pytest.raises(ValidationError, match="entry must be a Python name"):
        ExecutionTask(entry="x y")


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError, match="tests"):
        ExecutionTask.model_validate({"tests": []})
