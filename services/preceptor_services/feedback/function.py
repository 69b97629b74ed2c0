"""A feedback source from one function: a judge of yours, or a verifier by name.

    preceptor serve preceptor_services.feedback.function:Function --option function=judge.py:judge

The judge (`preceptor_clients.sdk.judging`) runs in processes of its own with a time limit for each
call. It is your code, so nothing else restricts it. Where it raises `NotJudged`, the answer is an
item with that reason and no score. Any other exception, a call over the limit, NaN and a value of
another type say nothing about the response: the query fails with the reason, so that it is asked
again. The source's version is a hash of the function's code and its options, so that edited code is
never taken for what it was.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from preceptor_clients.contract.errors import Invalid, PreceptorError, ServiceFailed
from preceptor_clients.contract.json_text import allow_long_integers
from preceptor_clients.contract.schemas import (
    FeedbackAnswer,
    FeedbackItem,
    FeedbackQuery,
    ServiceInfo,
    ServiceLimits,
)
from preceptor_services.feedback.function_process import (
    CannotTell,
    Interrupted,
    JudgeFailed,
    JudgeProcess,
)

CODE_VERSION: Final = "2"
"""Increased whenever the answer to the same response, row and function may change."""
_log: Final = logging.getLogger("preceptor.judge")


@dataclass(frozen=True, kw_only=True)
class FunctionConfig:
    """Options of a function as a source."""

    function: str
    """`FILE.py:NAME`, `module:name`, or a verifier's name."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """Further arguments of the function, by name."""
    name: str = "judge"
    """The source's name in its answers."""
    timeout_s: float = 10.0
    """Time limit of one call; a call that takes longer is ended and is an error."""
    workers: int = 2
    """Processes that call the function."""
    concurrency: int = 16
    """Calls at a time in each process, where the function is async."""
    max_batch: int = 256
    """Queries in one call."""

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s: {self.timeout_s} is not above 0")
        for name in ("workers", "concurrency", "max_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is below 1")


class Function:
    """A feedback source of the SDK; every option is a field of `FunctionConfig`."""

    def __init__(self, **options: Any) -> None:
        self._config = config = FunctionConfig(**options)
        allow_long_integers()
        self._processes = [self._process() for _ in range(config.workers)]
        self._alone = asyncio.Lock()
        # Last in, first out: a process that runs already is taken before one that does not.
        self._places: asyncio.LifoQueue[JudgeProcess] = asyncio.LifoQueue()
        self._version = ""

    def info(self) -> ServiceInfo:
        """Name, version and limits."""
        return ServiceInfo(
            name=self._config.name,
            role="source",
            version=self._version,
            limits=ServiceLimits(max_batch=self._config.max_batch, max_concurrency=4),
        )

    async def start(self) -> None:
        """Loads the function in the first process; the others start when they are needed.

        Raises:
            ValueError: it cannot be loaded.
        """
        try:
            loaded = await self._processes[0].start()
        except JudgeFailed as error:
            raise ValueError(f"{self._config.function}: {error}") from None
        decides = [CODE_VERSION, self._config.function.rpartition(":")[2], self._config.options]
        text = json.dumps([*decides, loaded.version], sort_keys=True)
        self._version = f"{CODE_VERSION}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        for process in reversed(self._processes):
            for _ in range(self._config.concurrency if loaded.is_async else 1):
                self._places.put_nowait(process)

    async def stop(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            await process.stop()

    async def feedback(
        self, queries: Sequence[FeedbackQuery]
    ) -> Sequence[FeedbackAnswer | PreceptorError]:
        """One answer per query."""
        return await asyncio.gather(*(self._answer(query) for query in queries))

    async def _answer(self, query: FeedbackQuery) -> FeedbackAnswer | PreceptorError:
        if not isinstance(query.payload, dict):
            return Invalid("is not a row: an object with the row's columns", field="payload")
        call = {
            "row": cast("dict[str, Any]", query.payload),
            "response": query.response_text,
            "finish_reason": query.finish_reason,
        }
        if query.episode is not None:
            turns = [turn.model_dump() for turn in query.episode.turns]
            own = [turn["content"] for turn in turns if turn["role"] == "assistant"]
            call |= {"response": own[-1] if own else "", "turns": turns}
        try:
            found = await self._asked(call)
        except JudgeFailed as error:
            # No item with an error, which every later question with this text would have.
            _log.warning("rollout %s was not judged: %s", query.rollout_id, error)
            return ServiceFailed(f"{self._config.name}: {error}")
        except CannotTell as error:
            item = self._item(query, error=str(error))
        else:
            item = self._item(query, score=found["score"], text=found["text"] or None)
        return FeedbackAnswer(items=(item,), source=self._config.name, source_version=self._version)

    async def _asked(self, call: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self._in_a_process(call)
        except Interrupted:
            # Perhaps another call of the same process was at fault: once more, with none beside it.
            async with self._alone:
                process = self._process()
                try:
                    return await process.ask(call)
                finally:
                    await process.stop()

    async def _in_a_process(self, call: dict[str, Any]) -> dict[str, Any]:
        process = await self._places.get()
        try:
            return await process.ask(call)
        finally:
            self._places.put_nowait(process)

    def _process(self) -> JudgeProcess:
        config = self._config
        return JudgeProcess(config.function, config.options, config.timeout_s)

    def _item(self, query: FeedbackQuery, **found: Any) -> FeedbackItem:
        parts = [
            self._version,
            query.rollout_id,
            query.payload_sha256,
            query.finish_reason,
            query.response_text,
        ]
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return FeedbackItem(
            id=f"fb-{digest[:32]}",
            kind="verdict",
            source=self._config.name,
            version=self._version,
            details={"function": self._config.function.rpartition("/")[2]},
            **found,
        )
