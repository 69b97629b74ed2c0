"""The executor: runs the student's program on the task's cases and reports the result.

The program runs in a sandbox (`isolation.py`) that never holds an expected value; the returned
values are compared here (`preceptor_clients.contract.comparison`). Score 1 means that every case
passed, shown and hidden; else the score is 0. The text for experts is made by
`preceptor_clients.contract.execution`. Where the sandbox fails the item has an error and no score.

    preceptor serve preceptor_services.feedback.executor:Executor --option workers=2
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import platform
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final

from pydantic import JsonValue, ValidationError

from preceptor_clients.contract.comparison import (
    compact,
    without_spaces,
)
from preceptor_clients.contract.errors import (
    Invalid,
    PreceptorError,
    ServiceUnavailable,
    from_validation,
)
from preceptor_clients.contract.execution import (
    KIND,
    CaseReport,
    ExecutionCase,
    ExecutionReport,
    ExecutionTask,
    Visibility,
    clip,
    ended_case,
    feedback_text,
    valued_case,
)
from preceptor_clients.contract.json_text import allow_long_integers
from preceptor_clients.contract.schemas import (
    FeedbackAnswer,
    FeedbackItem,
    FeedbackQuery,
    ServiceInfo,
    ServiceLimits,
)
from preceptor_services.sandbox.isolation import (
    CaseResult,
    Isolation,
    IsolationFailed,
    Limits,
    Outcome,
    ProgramRun,
)
from preceptor_services.sandbox.process import MAX_SLOTS, ProcessIsolation

CODE_VERSION: Final = "2"
"""Increased whenever the answer to the same response and task may change."""
MAX_RECORDED_CHARS: Final = 200
CUT_OFF: Final = "the response was cut off at the length limit"
EMPTY: Final = "the response is empty"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    """Options of an executor."""

    name: str = "executor"
    """The source's name in its answers."""
    cpu_seconds: float = Limits.cpu_seconds
    """Processor time of one attempt, all its cases together."""
    timeout_s: float = Limits.timeout_s
    """Wall-clock time of one attempt; generous, because the processor time decides."""
    memory_mb: int = Limits.memory_mb
    """Address space of one attempt."""
    output_bytes: int = Limits.output_bytes
    """Size of all values of one attempt."""
    workers: int = 2
    """Concurrent attempts."""
    max_batch: int = 256
    """Queries in one call."""

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= MAX_SLOTS:
            raise ValueError(f"workers: {self.workers} is outside 1..{MAX_SLOTS}")
        if self.max_batch < 1:
            raise ValueError(f"max_batch: {self.max_batch} is below 1")
        _ = self.limits

    @property
    def limits(self) -> Limits:
        """The limits that the sandbox enforces."""
        return Limits(
            cpu_seconds=self.cpu_seconds,
            timeout_s=self.timeout_s,
            memory_mb=self.memory_mb,
            output_bytes=self.output_bytes,
        )


class Executor:
    """A feedback source of the SDK; every option is a field of `ExecutorConfig`."""

    def __init__(
        self, *, make_isolation: Callable[[int], Isolation] = ProcessIsolation, **options: Any
    ) -> None:
        self._config = ExecutorConfig(**options)
        allow_long_integers()
        self._boxes: queue.SimpleQueue[Isolation] = queue.SimpleQueue()
        self._all_boxes = [make_isolation(slot) for slot in range(self._config.workers)]
        self._threads = ThreadPoolExecutor(self._config.workers, thread_name_prefix="executor")
        self._not_ready: str | None = "not started yet"
        self._version = self._hash_version()

    def info(self) -> ServiceInfo:
        """Name, version, capabilities and limits."""
        return ServiceInfo(
            name=self._config.name,
            role="source",
            version=self._version,
            limits=ServiceLimits(max_batch=self._config.max_batch, max_concurrency=4),
        )

    async def start(self) -> None:
        """Starts the sandboxes and tests each with programs of known outcome."""
        self._not_ready = await asyncio.to_thread(self._start)
        if self._not_ready is not None:
            _log.error("the executor is not ready: %s", self._not_ready)
            return
        isolation = self.describe_isolation()
        level = logging.INFO if isolation.get("level") == "namespaces" else logging.WARNING
        said = ", ".join(f"{name}: {value}" for name, value in isolation.items())
        _log.log(level, "isolation of attempts: %s", said)

    def ready(self) -> bool:
        """False until the self-test has passed."""
        return self._not_ready is None

    async def stop(self) -> None:
        """Stops the sandboxes after their attempts have ended."""
        await asyncio.to_thread(self._threads.shutdown)
        for box in self._all_boxes:
            await asyncio.to_thread(box.stop)

    def describe_isolation(self) -> dict[str, JsonValue]:
        """Protections and limits of the sandboxes, as reported in every answer."""
        return self._isolation(self._all_boxes[0])

    async def feedback(
        self, queries: Sequence[FeedbackQuery]
    ) -> Sequence[FeedbackAnswer | PreceptorError]:
        """One answer per query.

        Raises:
            ServiceUnavailable: The self-test has not passed.
        """
        if self._not_ready is not None:
            raise ServiceUnavailable(self._not_ready)
        loop = asyncio.get_running_loop()
        return await asyncio.gather(
            *(loop.run_in_executor(self._threads, self._answer, query) for query in queries)
        )

    def _start(self) -> str | None:
        try:
            for box in self._all_boxes:
                box.start()
                failed = _self_test(box, self._config.limits)
                if failed is not None:
                    return failed
                self._boxes.put(box)
        except IsolationFailed as error:
            return str(error)
        return None

    def _answer(self, query: FeedbackQuery) -> FeedbackAnswer | PreceptorError:
        try:
            task = _read_task(query)
        except PreceptorError as error:
            return error
        box = self._boxes.get()
        try:
            item = self._grade(query, task, box)
        finally:
            self._boxes.put(box)
        return FeedbackAnswer(items=(item,), source=self._config.name, source_version=self._version)

    def _grade(self, query: FeedbackQuery, task: ExecutionTask, box: Isolation) -> FeedbackItem:
        try:
            report = examine(query, task, box, self._config.limits)
        except IsolationFailed as error:
            _log.warning("rollout %s was not graded: %s", query.rollout_id, error)
            return self._item(query, box, error=str(error))
        return self._item(
            query,
            box,
            score=1.0 if report.solved else 0.0,
            text=feedback_text(report) or None,
            report=_record(report),
        )

    def _item(
        self,
        query: FeedbackQuery,
        box: Isolation,
        *,
        report: dict[str, JsonValue] | None = None,
        **found: Any,
    ) -> FeedbackItem:
        details: dict[str, JsonValue] = dict(report or {})
        details["isolation"] = self._isolation(box)
        return FeedbackItem(
            id=self._item_id(query),
            kind=KIND,
            source=self._config.name,
            version=self._version,
            details=details,
            **found,
        )

    def _isolation(self, box: Isolation) -> dict[str, JsonValue]:
        described = dict(box.describe())
        described["limits"] = asdict(self._config.limits)
        return described

    def _item_id(self, query: FeedbackQuery) -> str:
        parts = [
            self._version,
            query.rollout_id,
            query.payload_sha256,
            query.finish_reason,
            query.response_text,
        ]
        return "fb-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def _hash_version(self) -> str:
        decides = [CODE_VERSION, asdict(self._config.limits), platform.python_version()]
        digest = hashlib.sha256(json.dumps(decides).encode()).hexdigest()
        return f"{CODE_VERSION}-{digest[:16]}"


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


def _record(report: ExecutionReport) -> dict[str, JsonValue]:
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


def _read_task(query: FeedbackQuery) -> ExecutionTask:
    if not isinstance(query.payload, dict):
        raise Invalid(
            "is missing, or no object; name the task's cases in payload_sha256", field="payload"
        )
    # A row of a user's data comes with all its columns, of which the task is some.
    columns = {k: v for k, v in query.payload.items() if k in ExecutionTask.model_fields}
    try:
        task = ExecutionTask.model_validate(columns)
    except ValidationError as error:
        raise from_validation(error, "payload") from error
    if not task.cases():
        given = ", ".join(sorted(query.payload)) or "nothing"
        raise Invalid(
            f"has no cases: expected `shown` or `hidden`, lists of input and expected; got {given}",
            field="payload.shown",
        )
    return task


def _self_test(box: Isolation, limits: Limits) -> str | None:
    """Runs a correct, a failing and an endless program; returns the first wrong result."""
    quick = Limits(
        cpu_seconds=min(0.2, limits.cpu_seconds),
        timeout_s=limits.timeout_s,
        memory_mb=limits.memory_mb,
        output_bytes=limits.output_bytes,
    )
    sort = Outcome(results=(CaseResult(value=[1, 3]),), ended="finished")
    bad = CaseResult(error="IndexError: list index out of range")
    wrong = Outcome(results=(bad,), ended="finished")
    endless = Outcome(results=(), ended="timeout")
    for program, expected in (
        ("sorted(x)", sort),
        ("x[2]", wrong),
        ("sum(0 for _ in iter(int,1))", endless),
    ):
        found = box.run(ProgramRun(program=program, entry="x", inputs=([3, 1],)), quick)
        if found != expected:
            return f"self-test: {program} gave {found}, expected {expected}"
    return None
