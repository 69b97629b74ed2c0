"""The client of the gateway, for trainers, dispatchers and tools.

Deadlines, retries and cancellation are those of `connection.py`.

Example:
    async with GatewayClient(url, key) as gateway:
        outcomes = await gateway.logprobs("self-teacher", submissions, run="demo", timeout_s=60)
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

from preceptor_clients.contract import wire
from preceptor_clients.contract.errors import ServiceFailed, TooLarge
from preceptor_clients.contract.listings import (
    Quarantine,
    QuarantinedTarget,
    RolloutPage,
    RolloutPlace,
    RunDetails,
    RunPage,
    RunPlace,
    TargetPage,
    TargetPlace,
)
from preceptor_clients.contract.operations import RetiredItem, RetireItem
from preceptor_clients.contract.parts import halves_of, parts_of, parts_of_credits
from preceptor_clients.contract.schemas import (
    Accepted,
    Accounting,
    Arrivals,
    CollectRequest,
    FeedbackOutcome,
    FeedbackOutcomes,
    FeedbackRequest,
    FeedbackSubmission,
    LineageRecord,
    LogprobsOutcomes,
    LogprobsRequest,
    PrefixOutcome,
    PrefixSubmission,
    Records,
    RunRecord,
    Services,
    StepRecord,
    Trace,
    WeightManifest,
    WeightsOffer,
)
from preceptor_clients.http.connection import (
    CALL_TIMEOUT_S,
    HttpClient,
)
from preceptor_clients.http.posting import ask_in_chunks, wait_ms
from preceptor_clients.http.service import reading_timeout_s

_PAGE: Final = 1_000
_Outcome = TypeVar("_Outcome", PrefixOutcome, FeedbackOutcome)
_Outcomes = TypeVar("_Outcomes", LogprobsOutcomes, FeedbackOutcomes)
_T = TypeVar("_T")


class GatewayClient(HttpClient):
    """All calls of trainers and tools to the gateway."""

    async def logprobs(
        self,
        expert: str,
        submissions: Sequence[PrefixSubmission],
        *,
        run: str | None = None,
        batching: Literal["merge", "group"] = "merge",
        timeout_s: float,
    ) -> list[PrefixOutcome]:
        """Asks an expert and waits for answers until the deadline.

        Big lists go in several calls, a group always in one; with `batching="group"` the calls are
        posted one after the other, so that the expert sees the groups in the order given.

        Args:
            expert: Its name at the gateway.
            submissions: Queries, each under a key of the caller's.
            run: The run that asks.
            batching: `group` for one expert call per group, in order.
            timeout_s: Seconds after which it returns the outcomes so far.

        Returns:
            One outcome per submission, in order: `answer`, or `problem`, or neither for a ticket
            that waits for a late answer (`waiting`). An answer still pending at the deadline has
            the problem `deadline-exceeded` beside its ticket and can be collected later.

        Raises:
            PreceptorError: a whole call failed; nothing of it was answered.
        """

        async def post(chunk: Sequence[PrefixSubmission], wait_s: float) -> list[PrefixOutcome]:
            return await self.submit_logprobs(
                expert, chunk, run=run, batching=batching, wait_s=wait_s
            )

        return await ask_in_chunks(
            submissions,
            post,
            self.collect_logprobs,
            in_order=batching == "group",
            timeout_s=timeout_s,
        )

    async def feedback(
        self,
        source: str,
        submissions: Sequence[FeedbackSubmission],
        *,
        run: str | None = None,
        timeout_s: float,
    ) -> list[FeedbackOutcome]:
        """Asks a feedback source and waits for answers until the deadline; as `logprobs`."""

        async def post(chunk: Sequence[FeedbackSubmission], wait_s: float) -> list[FeedbackOutcome]:
            return await self.submit_feedback(source, chunk, run=run, wait_s=wait_s)

        return await ask_in_chunks(
            submissions, post, self.collect_feedback, in_order=False, timeout_s=timeout_s
        )

    async def submit_logprobs(
        self,
        expert: str,
        submissions: Sequence[PrefixSubmission],
        *,
        run: str | None = None,
        batching: Literal["merge", "group"] = "merge",
        wait_s: float = 0.0,
        timeout_s: float | None = None,
    ) -> list[PrefixOutcome]:
        """Posts one call; the reply is held until all are done or `wait_s` has passed."""
        request = LogprobsRequest(
            expert=expert,
            submissions=tuple(submissions),
            run=run,
            batching=batching,
            wait_ms=wait_ms(wait_s),
        )
        return await self._outcomes(
            "/v1/logprobs", request, LogprobsOutcomes, len(submissions), wait_s, timeout_s
        )

    async def submit_feedback(
        self,
        source: str,
        submissions: Sequence[FeedbackSubmission],
        *,
        run: str | None = None,
        wait_s: float = 0.0,
        timeout_s: float | None = None,
    ) -> list[FeedbackOutcome]:
        """Posts one call; the reply is held until all are done or `wait_s` has passed."""
        request = FeedbackRequest(
            source=source, submissions=tuple(submissions), run=run, wait_ms=wait_ms(wait_s)
        )
        return await self._outcomes(
            "/v1/feedback", request, FeedbackOutcomes, len(submissions), wait_s, timeout_s
        )

    async def collect_logprobs(
        self, tickets: Sequence[str], wait_s: float = 0.0, timeout_s: float | None = None
    ) -> list[PrefixOutcome]:
        """The outcomes of these expert tickets, in order."""
        request = CollectRequest(tickets=tuple(tickets), wait_ms=wait_ms(wait_s))
        return await self._outcomes(
            "/v1/tickets/collect", request, LogprobsOutcomes, len(tickets), wait_s, timeout_s
        )

    async def collect_feedback(
        self, tickets: Sequence[str], wait_s: float = 0.0, timeout_s: float | None = None
    ) -> list[FeedbackOutcome]:
        """The outcomes of these feedback tickets, in order."""
        request = CollectRequest(tickets=tuple(tickets), wait_ms=wait_ms(wait_s))
        return await self._outcomes(
            "/v1/tickets/collect", request, FeedbackOutcomes, len(tickets), wait_s, timeout_s
        )

    async def cancel(self, ticket_id: str) -> None:
        """Cancels a ticket; its answer is dropped unless another ticket needs it."""
        await self.call("DELETE", f"/v1/tickets/{ticket_id}")

    async def arrivals(self, run: str, after: int = 0, limit: int = 1000) -> Arrivals:
        """Late answers of a run since cursor `after`, oldest first."""
        params = {"run": run, "after": after, "limit": limit}
        return await self.call("GET", "/v1/arrivals", params=params, reply=Arrivals)

    async def put_blob(self, content: bytes, timeout_s: float = 120.0) -> str:
        """Stores `content` under its SHA-256, which is returned."""
        sha256 = hashlib.sha256(content).hexdigest()
        await self.exchange(
            "PUT",
            f"/v1/blobs/{sha256}",
            content=content,
            content_type="application/octet-stream",
            timeout_s=timeout_s,
        )
        return sha256

    async def get_blob(self, sha256: str, timeout_s: float = 120.0) -> bytes:
        """The bytes of that hash, verified."""
        received = await self.exchange("GET", f"/v1/blobs/{sha256}", timeout_s=timeout_s)
        if hashlib.sha256(received.body).hexdigest() != sha256:
            raise ServiceFailed(f"the gateway sent other bytes than those of SHA-256 {sha256}")
        return received.body

    async def register_weights(self, manifest: WeightManifest) -> None:
        """Registers a version of a policy's weights; it never changes again.

        The gateway reads it, and hands a checkpoint to experts that read it too.
        """
        timeout_s = 2 * reading_timeout_s([manifest])
        await self.call("POST", "/v1/weights", body=manifest, timeout_s=timeout_s)

    async def weights(self, version: str) -> WeightManifest:
        """The manifest of a version."""
        return await self.call("GET", f"/v1/weights/{version}", reply=WeightManifest)

    async def weight_lineage(self, version: str) -> list[WeightManifest]:
        """A version and all its ancestors, ancestors first."""
        offer = await self.call("GET", f"/v1/weights/{version}/lineage", reply=WeightsOffer)
        return list(offer.manifests)

    async def start_run(self, record: RunRecord) -> None:
        """Records a run."""
        await self.call("POST", "/v1/runs", body=record)

    async def start_lineage(self, record: LineageRecord) -> None:
        """Records a run's first life or its continuation from a checkpoint."""
        await self.call("POST", "/v1/lineages", body=record)

    async def record(self, records: Records, timeout_s: float = 120.0) -> Accepted:
        """Writes rollouts, then targets, in as many requests as they need.

        Each request is written whole or not at all, and existing records stay unchanged, so that
        repeating the call after a failure completes it.
        """
        new = 0
        for part in parts_of(records):
            new += await self._record(part, timeout_s)
        return Accepted(new=new)

    async def _record(self, part: Records, timeout_s: float) -> int:
        try:
            accepted = await self.call(
                "POST", "/v1/records", body=part, reply=Accepted, timeout_s=timeout_s
            )
        except TooLarge:
            # This gateway's limit is lower than usual; a single record cannot be split.
            halves = halves_of(part)
            if not halves:
                raise
            return sum([await self._record(half, timeout_s) for half in halves])
        return accepted.new

    async def record_step(self, record: StepRecord, timeout_s: float = 120.0) -> None:
        """Writes one optimiser step and every rollout that it consumed.

        Credits that fill more than one request are sent first, as blobs; the step itself comes
        last, and is written whole or not at all.
        """
        parts = parts_of_credits(record.consumed)
        if len(parts) > 1:
            sent = [await self.put_blob(wire.render(part), timeout_s) for part in parts]
            record = record.model_copy(update={"consumed": (), "consumed_in": tuple(sent)})
        await self.call("POST", "/v1/steps", body=record, timeout_s=timeout_s)

    async def experts(self) -> Services:
        """Every expert and source that the gateway names, with its state."""
        return await self.call("GET", "/v1/experts", reply=Services)

    async def remove_expert(self, name: str) -> None:
        """Removes an expert or a source that was added at run time."""
        await self.call("DELETE", f"/v1/experts/{name}")

    async def quarantined(self, name: str, limit: int | None = None) -> list[QuarantinedTarget]:
        """Targets made of answers that an expert gave shortly before it failed an inspection."""

        async def page(
            params: Mapping[str, str | int],
        ) -> tuple[Sequence[QuarantinedTarget], str | None]:
            path = f"/v1/experts/{name}/quarantine"
            found = await self.call("GET", path, params=params, reply=Quarantine)
            return found.targets, found.after

        return await _pages(page, {}, limit)

    async def run_details(self, run: str) -> RunDetails:
        """A run's record and its lives."""
        return await self.call("GET", f"/v1/runs/{run}", reply=RunDetails)

    async def runs(self, limit: int | None = None) -> list[RunPlace]:
        """The runs on record, the newest first."""

        async def page(params: Mapping[str, str | int]) -> tuple[Sequence[RunPlace], str | None]:
            found = await self.call("GET", "/v1/runs", params=params, reply=RunPage)
            return found.runs, found.after

        return await _pages(page, {}, limit)

    async def rollouts(
        self,
        run: str,
        *,
        step: int | None = None,
        solved: bool | None = None,
        limit: int | None = None,
    ) -> list[RolloutPlace]:
        """Rollouts of a run in the order of its steps.

        Args:
            run: Its name.
            step: Only rollouts of this step, counted from 0.
            solved: Only judged rollouts: the solved or the failed ones.
            limit: Largest number of rollouts.
        """

        async def page(
            params: Mapping[str, str | int],
        ) -> tuple[Sequence[RolloutPlace], str | None]:
            path = f"/v1/runs/{run}/rollouts"
            found = await self.call("GET", path, params=params, reply=RolloutPage)
            return found.rollouts, found.after

        return await _pages(page, _filters(step, solved), limit)

    async def targets(
        self,
        run: str,
        *,
        step: int | None = None,
        solved: bool | None = None,
        limit: int | None = None,
    ) -> list[TargetPlace]:
        """Targets of a run in the order of their ids; arguments as of `rollouts`."""

        async def page(params: Mapping[str, str | int]) -> tuple[Sequence[TargetPlace], str | None]:
            path = f"/v1/runs/{run}/targets"
            found = await self.call("GET", path, params=params, reply=TargetPage)
            return found.targets, found.after

        return await _pages(page, _filters(step, solved), limit)

    async def retire_feedback(
        self, item_id: str, reason: str, *, superseded_by: str | None = None
    ) -> RetiredItem:
        """Withdraws a feedback item, for admins; a repeated call changes nothing.

        Args:
            item_id: Its id, as in `rollouts` and `trace`.
            reason: Why; it is kept.
            superseded_by: An item of the same source that counts in its place.
        """
        body = RetireItem(item_id=item_id, reason=reason, superseded_by=superseded_by)
        return await self.call("POST", "/v1/feedback/retire", body=body, reply=RetiredItem)

    async def accounting(self, run: str) -> Accounting:
        """Usage of the surviving lineage of a run."""
        return await self.call("GET", f"/v1/runs/{run}/accounting", reply=Accounting)

    async def trace(self, target_id: str, position: int) -> Trace:
        """Where the target of one token came from."""
        return await self.call(
            "GET", f"/v1/targets/{target_id}/trace", params={"position": position}, reply=Trace
        )

    async def trace_rollout(self, rollout_id: str, position: int) -> Trace:
        """Where one token of a rollout came from; through its target, if it has one."""
        return await self.call(
            "GET", f"/v1/rollouts/{rollout_id}/trace", params={"position": position}, reply=Trace
        )

    async def _outcomes(
        self,
        path: str,
        request: LogprobsRequest | FeedbackRequest | CollectRequest,
        reply: type[_Outcomes],
        num_asked: int,
        wait_s: float,
        timeout_s: float | None,
    ) -> list[Any]:
        if timeout_s is None:
            timeout_s = wait_s + CALL_TIMEOUT_S
        received = await self.call("POST", path, body=request, reply=reply, timeout_s=timeout_s)
        if len(received.outcomes) != num_asked:
            raise ServiceFailed(f"{path}: {len(received.outcomes)} outcomes for {num_asked} asked")
        return list(received.outcomes)


async def _pages(
    page: Callable[[Mapping[str, str | int]], Awaitable[tuple[Sequence[_T], str | None]]],
    filters: Mapping[str, str | int],
    limit: int | None,
) -> list[_T]:
    """Page after page until `limit` or the end."""
    found: list[_T] = []
    after: str | None = ""
    while after is not None and (limit is None or len(found) < limit):
        size = _PAGE if limit is None else min(_PAGE, limit - len(found))
        params = {**filters, "limit": size, **({"after": after} if after else {})}
        rows, after = await page(params)
        found += rows
    return found


def _filters(step: int | None, solved: bool | None) -> dict[str, str | int]:
    return {
        **({} if step is None else {"step": step}),
        **({} if solved is None else {"solved": str(solved).lower()}),
    }
