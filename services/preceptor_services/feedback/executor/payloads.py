"""Reads the task in the payload of a query: of an expression, or of a whole program."""

from __future__ import annotations

from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from preceptor_clients.contract.errors import Invalid, from_validation
from preceptor_clients.contract.execution import ExecutionTask
from preceptor_clients.contract.programs import MODES, ProgramTask, is_program_task
from preceptor_clients.contract.schemas import FeedbackQuery
from preceptor_clients.contract.sections import nearest
from preceptor_services.feedback.executor.config import ExecutorConfig
from preceptor_services.feedback.executor.languages import PYTHON_LANGUAGE

EXPRESSION: Final = "expression"
_Task = TypeVar("_Task", bound=BaseModel)


def read_task(query: FeedbackQuery, config: ExecutorConfig) -> ExecutionTask | ProgramTask:
    """The task that a query is about.

    Raises:
        Invalid: it is none, or asks for what this executor does not have.
    """
    payload = query.payload
    if not isinstance(payload, dict):
        raise Invalid(
            "is missing, or no object; name the task's cases in payload_sha256", field="payload"
        )
    mode = payload.get("mode", EXPRESSION)
    if mode not in (EXPRESSION, *MODES):
        known = ", ".join((EXPRESSION, *MODES))
        raise Invalid(f"{mode!r} is none of {known}", field="payload.mode")
    if is_program_task(payload):
        task = _read(ProgramTask, payload)
        _check_program(task, config)
        has_cases = bool(task.shown or task.hidden)
    else:
        task = _read(ExecutionTask, payload)
        has_cases = bool(task.cases())
    if not has_cases:
        given = ", ".join(sorted(payload)) or "nothing"
        raise Invalid(
            f"has no cases: expected `shown` or `hidden`, lists of input and expected; got {given}",
            field="payload.shown",
        )
    return task


def _read(kind: type[_Task], payload: dict[str, Any]) -> _Task:
    # A row of a user's data comes with all its columns, of which the task is some.
    columns = {name: value for name, value in payload.items() if name in kind.model_fields}
    try:
        return kind.model_validate(columns)
    except ValidationError as error:
        raise from_validation(error, "payload") from error


def _check_program(task: ProgramTask, config: ExecutorConfig) -> None:
    known = [PYTHON_LANGUAGE, *config.languages]
    if task.language not in known:
        raise Invalid(
            f"{task.language!r} is no language of this executor; {nearest(task.language, known)}",
            field="payload.language",
        )
    if task.mode == "function" and task.language != PYTHON_LANGUAGE:
        raise Invalid("functions are called in Python alone", field="payload.mode")
    if (task.time_limit_s or 0) > config.case_cpu_seconds:
        raise Invalid(
            f"{task.time_limit_s} is above the executor's case_cpu_seconds, "
            f"{config.case_cpu_seconds}",
            field="payload.time_limit_s",
        )
    if (task.memory_mb or 0) > config.case_memory_mb:
        raise Invalid(
            f"{task.memory_mb} is above the executor's case_memory_mb, {config.case_memory_mb}",
            field="payload.memory_mb",
        )
