"""One call of a service: send it, offer missing weights, check every answer.

An error of one question becomes the problem of that question and does not affect the others. An
error of the whole call is raised.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from preceptor_clients.contract.errors import (
    AnswerRefused,
    PreceptorError,
    ServiceFailed,
    WeightsNotHere,
)
from preceptor_clients.contract.schemas import (
    Capabilities,
    FeedbackResult,
    PrefixResult,
    WeightsOffer,
)
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.http.service import ServiceClient
from preceptor_services.jobs.messages import ClaimedItem, ItemResult
from preceptor_services.jobs.roles import RoleQuestion

_OFF_LOOP_ENTRIES: Final = 1 << 15
"""Most entries to check on the event loop; more would block it for too long."""
Result = PrefixResult | FeedbackResult
_log = logging.getLogger("preceptor.dispatcher")


class Asker:
    """Calls one service."""

    def __init__(self, service: ServiceClient, gateway: GatewayClient) -> None:
        self._service = service
        self._gateway = gateway

    async def ask(
        self,
        question: RoleQuestion,
        items: Sequence[ClaimedItem],
        capabilities: Capabilities,
        *,
        timeout_s: float,
    ) -> list[ItemResult]:
        """One result per item, in order; all are of the kind of `question`.

        Raises:
            PreceptorError: the call as a whole failed, or took longer than `timeout_s`.
        """
        results = await self._ask(question, items, timeout_s)
        entries = sum(question.num_entries(question.query_of(item)) for item in items)
        if entries < _OFF_LOOP_ENTRIES:
            return _checked(question, items, results, capabilities)
        return await asyncio.to_thread(_checked, question, items, results, capabilities)

    async def _ask(
        self, question: RoleQuestion, items: Sequence[ClaimedItem], timeout_s: float
    ) -> list[Result]:
        """Calls once; after offering weights, calls again for the questions that lacked them."""
        end = asyncio.get_running_loop().time() + timeout_s
        results: list[Result]
        try:
            results = await self._call(question, items, timeout_s)
        except WeightsNotHere as error:
            results = [PrefixResult(problem=error.problem()) for _ in items]
        lacking = [i for i, result in enumerate(results) if _lacks_weights(result)]
        if not lacking:
            return results
        again = [items[i] for i in lacking]
        await self._offer_weights(again)
        left_s = max(0.001, end - asyncio.get_running_loop().time())
        for i, result in zip(lacking, await self._call(question, again, left_s), strict=True):
            results[i] = result
        return results

    async def _call(
        self, question: RoleQuestion, items: Sequence[ClaimedItem], timeout_s: float
    ) -> list[Result]:
        queries = [question.query_of(item) for item in items]
        call = question.call(queries, [item.answer_key for item in items])
        reply = await self._service.ask(question.path, call, question.reply, timeout_s)
        return list(reply.results)

    async def _offer_weights(self, items: Sequence[ClaimedItem]) -> None:
        wishes = (item.prefix.weights for item in items if item.prefix is not None)
        versions = {wish.version for wish in wishes if wish is not None and wish.version}
        for version in sorted(versions):
            lineage = await self._gateway.weight_lineage(version)
            await self._service.offer_weights(WeightsOffer(manifests=tuple(lineage)))


def _checked(
    question: RoleQuestion,
    items: Sequence[ClaimedItem],
    results: Sequence[Result],
    capabilities: Capabilities,
) -> list[ItemResult]:
    pairs = [
        (question.query_of(item), result.answer)
        for item, result in zip(items, results, strict=True)
        if result.answer is not None
    ]
    sound = _all_sound(question, pairs, capabilities)
    return [
        _checked_one(question, item, result, capabilities, sound=sound)
        for item, result in zip(items, results, strict=True)
    ]


def _all_sound(
    question: RoleQuestion, pairs: Sequence[tuple[Any, Any]], capabilities: Capabilities
) -> bool:
    """Whether every answer passes; otherwise each is checked by itself."""
    try:
        return question.all_pass(pairs, capabilities)
    except Exception:
        # The check of the answer that raised it, by itself, logs it.
        return False


def _checked_one(
    question: RoleQuestion,
    item: ClaimedItem,
    result: Result,
    capabilities: Capabilities,
    *,
    sound: bool,
) -> ItemResult:
    if isinstance(result, PrefixResult) and result.accepted:
        return _promised(item, capabilities)
    answer = result.answer
    if answer is None:
        return _problem_of(item, result)
    if not sound:
        query = question.query_of(item)
        refused = _refusal(lambda: question.check(query, answer, capabilities))
        if refused is not None:
            return ItemResult(answer_key=item.answer_key, problem=refused.problem())
    return question.result(item.answer_key, answer)


def _promised(item: ClaimedItem, capabilities: Capabilities) -> ItemResult:
    if capabilities.late_s is not None:
        return ItemResult(answer_key=item.answer_key, accepted=True)
    endless = AnswerRefused(
        "accepted", "is a promise of a late answer, but the expert does not declare `late_s`"
    )
    return ItemResult(answer_key=item.answer_key, problem=endless.problem())


def _refusal(check: Callable[[], None]) -> PreceptorError | None:
    try:
        check()
    except PreceptorError as error:
        return error
    except Exception as error:
        # The check raised an unexpected error on this answer, so the answer is refused.
        _log.exception("the check of an answer raised an error")
        return AnswerRefused("unchecked", f"{type(error).__name__}: {error}")
    return None


def _problem_of(item: ClaimedItem, result: Result) -> ItemResult:
    problem = result.problem or ServiceFailed("the result has neither answer nor problem").problem()
    return ItemResult(answer_key=item.answer_key, problem=problem)


def _lacks_weights(result: Result) -> bool:
    return result.problem is not None and result.problem.code == WeightsNotHere.code
