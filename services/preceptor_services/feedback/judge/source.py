"""A judge: a language model that answers a rubric's criteria about each response.

    preceptor serve preceptor_services.feedback.judge.source:Judge --option url=http://127.0.0.1:8000 \\
        --option 'criteria=[{"name": "polite", "question": "Is the response polite?"}]'

The score is the weight of the criteria that are met, from 0 to 1; the text has the reasons of those
that are not. A reply that cannot be read is an item with an error. Where there was no reply (the
server is not reachable, too slow, refuses the key, or a budget is spent) the query fails with the
reason, so that it is asked again. Neither is a score. The same response to the same prompt is
judged once.
"""  # noqa: E501

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, cast

from cachetools import LRUCache
from pydantic import JsonValue

from preceptor_clients.contract.errors import Invalid, PreceptorError
from preceptor_clients.contract.fingerprint import settings_version
from preceptor_clients.contract.schemas import (
    FeedbackAnswer,
    FeedbackItem,
    FeedbackQuery,
    ServiceInfo,
    ServiceLimits,
)
from preceptor_clients.sdk.rubrics.judging import Counted, Judgement, NotJudged, judge
from preceptor_clients.sdk.rubrics.material import Material, last_turn
from preceptor_clients.sdk.rubrics.rubric import remarks
from preceptor_services.feedback.judge.budget import Budget
from preceptor_services.feedback.judge.chat_server import ChatServer
from preceptor_services.feedback.judge.options import JudgeConfig

CODE_VERSION: Final = "1"
"""Increased whenever the same replies of the model may give another answer."""
_PER: Final = 1e6
_MOST_RECORDED: Final = 4000
"""Characters kept of the raw replies."""
_log: Final = logging.getLogger("preceptor.judge")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What came of one judgement, and what it took."""

    key: str
    judgement: Judgement | None
    error: str | None
    calls: int
    input_tokens: int
    output_tokens: int
    replies: tuple[str, ...]
    seconds: float
    cached: bool = False

    def again(self) -> Found:
        """The same for the next query, which costs nothing."""
        return replace(self, cached=True, calls=0, input_tokens=0, output_tokens=0, seconds=0.0)


class Judge:
    """A feedback source of the SDK; every option is a field of `JudgeConfig`."""

    def __init__(self, **options: Any) -> None:
        self._config = config = JudgeConfig(**options)
        self._budget = Budget(config.name, config.max_calls, config.budget_tokens)
        self._server = ChatServer(config, self._budget)
        self._kept: LRUCache[str, Found] = LRUCache(config.cached)
        self._under_way: dict[str, asyncio.Future[Found]] = {}
        self._version = settings_version(
            CODE_VERSION,
            {
                "code": CODE_VERSION,
                "rubric": config.rubric.version,
                "url": config.url,
                "model": config.model,
                "form": config.form,
                "temperature": config.temperature,
                "max_tokens": config.max_tokens,
            },
        )

    def info(self) -> ServiceInfo:
        """Name, version and limits."""
        return ServiceInfo(
            name=self._config.name,
            role="source",
            version=self._version,
            limits=ServiceLimits(max_batch=self._config.max_batch, max_concurrency=4),
        )

    async def stop(self) -> None:
        """Ends what is under way, and closes the connections."""
        for task in list(self._under_way.values()):
            task.cancel()
        await self._server.aclose()

    async def feedback(
        self, queries: Sequence[FeedbackQuery]
    ) -> Sequence[FeedbackAnswer | PreceptorError]:
        """One answer per query; a failure affects only its own query."""
        return await asyncio.gather(*(self._answer(query) for query in queries))

    async def _answer(self, query: FeedbackQuery) -> FeedbackAnswer | PreceptorError:
        try:
            found = await self._found(_material(query, self._config.rubric.columns))
        except PreceptorError as error:
            _log.warning("rollout %s was not judged: %s", query.rollout_id, error.detail)
            return error
        item = self._item(query, found)
        return FeedbackAnswer(
            items=(item,),
            source=self._config.name,
            source_version=self._version,
            latency_ms=found.seconds * 1000,
            cost=item.cost,
        )

    async def _found(self, material: Material) -> Found:
        """From the kept ones, from one that is under way, or anew."""
        key = self._key(material)
        if (kept := self._kept.get(key)) is not None:
            return kept.again()
        if (under_way := self._under_way.get(key)) is not None:
            # Shielded: who asked first may leave, and who waits here may leave too.
            return (await asyncio.shield(under_way)).again()
        task = asyncio.ensure_future(self._judge(key, material))
        self._under_way[key] = task
        task.add_done_callback(lambda done: self._settled(key, done))
        return await asyncio.shield(task)

    def _settled(self, key: str, done: asyncio.Future[Found]) -> None:
        self._under_way.pop(key, None)
        if not done.cancelled():
            done.exception()  # read, in case that everybody who waited has left

    async def _judge(self, key: str, material: Material) -> Found:
        began = time.monotonic()
        counted = Counted(self._server)
        judgement, error = None, None
        config = self._config
        try:
            judgement = await judge(
                counted, config.rubric, material, form=config.form, max_tokens=config.max_tokens
            )
        except NotJudged as failure:
            error = str(failure)
            _log.warning("a response was not judged: %s", error)
        found = Found(
            key=key,
            judgement=judgement,
            error=error,
            calls=counted.calls,
            input_tokens=counted.input_tokens,
            output_tokens=counted.output_tokens,
            replies=tuple(counted.replies),
            seconds=time.monotonic() - began,
        )
        if judgement is not None:
            self._kept[key] = found
        return found

    def _item(self, query: FeedbackQuery, found: Found) -> FeedbackItem:
        config, judgement = self._config, found.judgement
        scored: dict[str, Any] = {"error": found.error}
        if judgement is not None:
            score = config.rubric.score(judgement.verdicts)
            scored = {"score": score, "text": remarks(judgement.verdicts)}
        read, written = found.input_tokens, found.output_tokens
        return FeedbackItem(
            id=f"fb-{hashlib.sha256(f'{found.key} {query.rollout_id}'.encode()).hexdigest()[:32]}",
            kind="judge",
            source=config.name,
            version=self._version,
            expert_may_see=config.expert_may_see,
            details=self._details(found),
            cost=(read * config.price_input + written * config.price_output) / _PER,
            **scored,
        )

    def _details(self, found: Found) -> dict[str, JsonValue]:
        details: dict[str, JsonValue] = {
            "model": self._config.model,
            "rubric": self._config.rubric.version,
            "judgement": found.key,
            "cached": found.cached,
            "calls": found.calls,
            "input_tokens": found.input_tokens,
            "output_tokens": found.output_tokens,
            "seconds": round(found.seconds, 3),
        }
        if found.judgement is not None:
            details["form"] = found.judgement.form
            details["verdicts"] = [asdict(verdict) for verdict in found.judgement.verdicts]
        else:
            details["replies"] = "\n---\n".join(found.replies)[:_MOST_RECORDED]
        return details

    def _key(self, material: Material) -> str:
        parts = [self._version, material.blocks()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _material(query: FeedbackQuery, columns: Sequence[str]) -> Material:
    if not query.prompt.messages:
        raise Invalid("is empty; a judge reads messages, not ids", field="prompt.messages")
    turns = [] if query.episode is None else [turn.model_dump() for turn in query.episode.turns]
    earlier, response = last_turn(turns, query.response_text)
    return Material(
        prompt=[message.model_dump() for message in query.prompt.messages],
        earlier=earlier,
        response=response,
        cut_off=query.finish_reason == "length",
        columns=_texts(query, columns),
    )


def _texts(query: FeedbackQuery, columns: Sequence[str]) -> dict[str, str]:
    row: dict[str, Any] = {}
    if isinstance(query.payload, dict):
        row = cast("dict[str, Any]", query.payload)
    for column in columns:
        if column not in row:
            given = ", ".join(sorted(row)) or "none"
            raise Invalid(f"has no column {column!r}; it has {given}", field="payload")
    values = {column: row[column] for column in columns}
    return {c: v if isinstance(v, str) else json.dumps(v) for c, v in values.items()}
