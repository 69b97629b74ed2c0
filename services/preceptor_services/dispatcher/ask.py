"""One call of a service: ask, bring missing weights along, check every answer at the door.

What concerns one question becomes that question's problem and the others stand; what concerns the
whole call is raised.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from preceptor_clients.contract.checks import check_answer, check_feedback
from preceptor_clients.contract.errors import (
    AnswerRefused,
    PreceptorError,
    ServiceFailed,
    WeightsNotHere,
)
from preceptor_clients.contract.schemas import (
    Capabilities,
    FeedbackCall,
    FeedbackQuery,
    FeedbackResult,
    LogprobsCall,
    PrefixQuery,
    PrefixResult,
    WeightsOffer,
)
from preceptor_clients.http.clients import GatewayClient, ServiceClient
from preceptor_services.jobs.messages import ClaimedItem, ItemResult

_OFF_LOOP_ENTRIES: Final = 1 << 15
"""Checking more entries than this in one go would hold up the event loop."""
_log = logging.getLogger("preceptor.dispatcher")


class Asker:
    """Asks one service."""

    def __init__(self, service: ServiceClient, gateway: GatewayClient) -> None:
        self._service = service
        self._gateway = gateway

    async def ask(
        self, items: Sequence[ClaimedItem], capabilities: Capabilities, *, timeout_s: float
    ) -> list[ItemResult]:
        """One result per item, in order.

        Raises:
            PreceptorError: the call as a whole failed, or took longer than `timeout_s`.
        """
        if items[0].feedback is not None:
            return await self._ask_source(items, timeout_s)
        results = await self._ask_expert(items, timeout_s)
        entries = sum(_num_entries(item) for item in items)
        if entries < _OFF_LOOP_ENTRIES:
            return _checked(items, results, capabilities)
        return await asyncio.to_thread(_checked, items, results, capabilities)

    async def _ask_source(self, items: Sequence[ClaimedItem], timeout_s: float) -> list[ItemResult]:
        queries = tuple(_feedback(item) for item in items)
        reply = await self._service.feedback(FeedbackCall(queries=queries), timeout_s)
        return [
            _checked_feedback(item, result)
            for item, result in zip(items, reply.results, strict=True)
        ]

    async def _ask_expert(
        self, items: Sequence[ClaimedItem], timeout_s: float
    ) -> list[PrefixResult]:
        """Asks once, and once more what failed for want of weights, after offering them."""
        end = asyncio.get_running_loop().time() + timeout_s
        try:
            results = await self._call(items, timeout_s)
        except WeightsNotHere as error:
            results = [PrefixResult(problem=error.problem()) for _ in items]
        lacking = [i for i, result in enumerate(results) if _lacks_weights(result)]
        if not lacking:
            return results
        again = [items[i] for i in lacking]
        await self._offer_weights(again)
        left_s = max(0.001, end - asyncio.get_running_loop().time())
        for i, result in zip(lacking, await self._call(again, left_s), strict=True):
            results[i] = result
        return results

    async def _call(self, items: Sequence[ClaimedItem], timeout_s: float) -> list[PrefixResult]:
        call = LogprobsCall(
            queries=tuple(_prefix(item) for item in items),
            answer_keys=tuple(item.answer_key for item in items),
        )
        return list((await self._service.logprobs(call, timeout_s)).results)

    async def _offer_weights(self, items: Sequence[ClaimedItem]) -> None:
        wishes = (_prefix(item).weights for item in items)
        versions = {wish.version for wish in wishes if wish is not None and wish.version}
        for version in sorted(versions):
            lineage = await self._gateway.weight_lineage(version)
            await self._service.offer_weights(WeightsOffer(manifests=tuple(lineage)))


def _checked(
    items: Sequence[ClaimedItem], results: Sequence[PrefixResult], capabilities: Capabilities
) -> list[ItemResult]:
    return [
        _checked_prefix(item, result, capabilities)
        for item, result in zip(items, results, strict=True)
    ]


def _checked_prefix(
    item: ClaimedItem, result: PrefixResult, capabilities: Capabilities
) -> ItemResult:
    if result.accepted:
        return ItemResult(answer_key=item.answer_key, accepted=True)
    answer = result.answer
    if answer is None:
        return _problem_of(item, result)
    refused = _refusal(lambda: check_answer(_prefix(item), answer, capabilities))
    if refused is not None:
        return ItemResult(answer_key=item.answer_key, problem=refused.problem())
    return ItemResult(answer_key=item.answer_key, prefix=answer)


def _checked_feedback(item: ClaimedItem, result: FeedbackResult) -> ItemResult:
    answer = result.answer
    if answer is None:
        return _problem_of(item, result)
    refused = _refusal(lambda: check_feedback(_feedback(item), answer))
    if refused is not None:
        return ItemResult(answer_key=item.answer_key, problem=refused.problem())
    return ItemResult(answer_key=item.answer_key, feedback=answer)


def _refusal(check: Callable[[], None]) -> PreceptorError | None:
    try:
        check()
    except PreceptorError as error:
        return error
    except Exception as error:
        # The door itself stumbled over the answer, so the answer does not come in.
        _log.exception("a check failed")
        return AnswerRefused("unchecked", f"{type(error).__name__}: {error}")
    return None


def _problem_of(item: ClaimedItem, result: PrefixResult | FeedbackResult) -> ItemResult:
    problem = result.problem or ServiceFailed("the result holds nothing").problem()
    return ItemResult(answer_key=item.answer_key, problem=problem)


def _lacks_weights(result: PrefixResult) -> bool:
    return result.problem is not None and result.problem.code == WeightsNotHere.code


def _prefix(item: ClaimedItem) -> PrefixQuery:
    assert item.prefix is not None, "an expert's job holds prefix queries"
    return item.prefix


def _feedback(item: ClaimedItem) -> FeedbackQuery:
    assert item.feedback is not None, "a source's job holds feedback queries"
    return item.feedback


def _num_entries(item: ClaimedItem) -> int:
    query = _prefix(item)
    return query.num_positions * query.top_k
