"""The executor as a feedback source.

Programs run in a sandbox (`preceptor_services.sandbox`) that never holds an expected value; what
comes out is compared here. Score 1 means that every case passed, shown and hidden; else the score
is 0. Where the sandbox fails, or the caller stops waiting, the query fails, and there is no score.

    preceptor serve preceptor_services.feedback.executor:Executor --option workers=2
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import platform
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, Final

from pydantic import JsonValue

from preceptor_clients.contract.errors import (
    DeadlineExceeded,
    PreceptorError,
    ServiceFailed,
    ServiceUnavailable,
)
from preceptor_clients.contract.execution import KIND, ExecutionTask, feedback_text
from preceptor_clients.contract.json_text import allow_long_integers
from preceptor_clients.contract.programs import ProgramTask
from preceptor_clients.contract.schemas import (
    FeedbackAnswer,
    FeedbackItem,
    FeedbackQuery,
    ServiceInfo,
    ServiceLimits,
)
from preceptor_services.feedback.executor.config import ExecutorConfig
from preceptor_services.feedback.executor.expressions import examine, recorded
from preceptor_services.feedback.executor.extraction import fenced_program
from preceptor_services.feedback.executor.payloads import read_task
from preceptor_services.feedback.executor.programs import OutOfTime, ProgramJudge, record
from preceptor_services.feedback.executor.self_test import self_test
from preceptor_services.sandbox.command import CommandLimits, Sandbox
from preceptor_services.sandbox.isolation import IsolationFailed, Limits
from preceptor_services.sandbox.ladder import open_sandbox

CODE_VERSION: Final = "3"
"""Increased whenever the answer to the same response and task may change."""
SHARE_OF_WAIT: Final = 0.9
"""Of the caller's patience; the rest is for the case that runs and the way back."""
OUT_OF_TIME: Final = "not all cases had run in the time that the caller waits"
_log = logging.getLogger(__name__)


class Executor:
    """A feedback source of the SDK; every option is a field of `ExecutorConfig`."""

    def __init__(
        self, *, make_sandbox: Callable[[int], Sandbox] | None = None, **options: Any
    ) -> None:
        self._config = config = ExecutorConfig(**options)
        allow_long_integers()
        self._languages = config.read_languages()
        self._make_sandbox = make_sandbox or self._open_sandbox
        self._boxes: queue.SimpleQueue[Sandbox] = queue.SimpleQueue()
        self._all_boxes: list[Sandbox] = []
        self._threads = ThreadPoolExecutor(config.workers, thread_name_prefix=config.name)
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
        has_walls = isolation.get("level") not in ("process", "remote")
        level = logging.INFO if has_walls else logging.WARNING
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
        return self._isolation(self._all_boxes[0], self._config.limits)

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
        # From here on, so that a call with many queries ends in time for those that were judged.
        came = time.monotonic()
        return await asyncio.gather(
            *(loop.run_in_executor(self._threads, self._answer, query, came) for query in queries)
        )

    def _start(self) -> str | None:
        try:
            for slot in range(self._config.workers):
                box = self._make_sandbox(slot)
                self._all_boxes.append(box)
                box.start()
                failed = self_test(box, self._config)
                if failed is not None:
                    return failed
                self._boxes.put(box)
        except IsolationFailed as error:
            return str(error)
        return None

    def _open_sandbox(self, slot: int) -> Sandbox:
        options = self._config.read_rung_options()
        return open_sandbox(self._config.rung, slot=slot, options=options)

    def _answer(self, query: FeedbackQuery, came: float) -> FeedbackAnswer | PreceptorError:
        try:
            task = read_task(query, self._config)
        except PreceptorError as error:
            return error
        box = self._boxes.get()
        try:
            item = self._grade(query, task, box, came)
        except IsolationFailed as error:
            return self._not_graded(query, ServiceFailed(str(error)))
        except OutOfTime:
            return self._not_graded(query, DeadlineExceeded(OUT_OF_TIME))
        except Exception:
            # An error of ours with one program fails no query but its own, and is no score.
            _log.exception("rollout %s was not graded", query.rollout_id)
            return ServiceFailed("the executor failed; its log says why")
        finally:
            self._boxes.put(box)
        return FeedbackAnswer(items=(item,), source=self._config.name, source_version=self._version)

    def _not_graded(self, query: FeedbackQuery, problem: PreceptorError) -> PreceptorError:
        # No item with an error: that would be the answer to every later question with this text.
        _log.warning("rollout %s was not graded: %s", query.rollout_id, problem.detail)
        return problem

    def _grade(
        self, query: FeedbackQuery, task: ExecutionTask | ProgramTask, box: Sandbox, came: float
    ) -> FeedbackItem:
        if isinstance(task, ProgramTask):
            return self._judge_program(query, task, box, came)
        return self._judge_expression(query, task, box)

    def _judge_expression(
        self, query: FeedbackQuery, task: ExecutionTask, box: Sandbox
    ) -> FeedbackItem:
        report = examine(query, task, box, self._config.limits)
        return self._item(
            query,
            box,
            score=1.0 if report.solved else 0.0,
            text=feedback_text(report) or None,
            report=recorded(report),
        )

    def _judge_program(
        self, query: FeedbackQuery, task: ProgramTask, box: Sandbox, came: float
    ) -> FeedbackItem:
        limits = self._config.case_limits(task.time_limit_s, task.memory_mb)
        judge = ProgramJudge(
            task=task,
            box=box,
            limits=limits,
            compile_limits=self._config.compile_limits,
            languages=self._languages,
            deadline=came + SHARE_OF_WAIT * query.timeout_ms / 1000,
        )
        program = fenced_program(query.response_text)
        judged = judge.judge(program, cut_off=query.finish_reason == "length")
        return self._item(
            query,
            box,
            score=1.0 if judged.solved else 0.0,
            text=judged.text or None,
            report=record(task, judged),
            limits=limits,
        )

    def _item(
        self,
        query: FeedbackQuery,
        box: Sandbox,
        *,
        report: dict[str, JsonValue] | None = None,
        limits: CommandLimits | None = None,
        **found: Any,
    ) -> FeedbackItem:
        details: dict[str, JsonValue] = dict(report or {})
        details["isolation"] = self._isolation(box, limits or self._config.limits)
        return FeedbackItem(
            id=self._item_id(query),
            kind=KIND,
            source=self._config.name,
            version=self._version,
            details=details,
            **found,
        )

    def _isolation(self, box: Sandbox, limits: Limits | CommandLimits) -> dict[str, JsonValue]:
        described = dict(box.describe())
        described["limits"] = asdict(limits)
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
        config = self._config
        languages = {name: one.model_dump() for name, one in self._languages.items()}
        decides = [
            CODE_VERSION,
            asdict(config.limits),
            asdict(config.case_limits()),
            asdict(config.compile_limits),
            languages,
            config.rung,
            config.rung_options.get("python"),
            platform.python_version(),
        ]
        digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
        return f"{CODE_VERSION}-{digest[:16]}"
