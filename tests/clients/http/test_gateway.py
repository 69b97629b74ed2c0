"""The gateway's client: chunks, tickets, deadlines and small routes, against a gateway we wrote."""

import asyncio
import hashlib
from collections.abc import Callable

import httpx
import numpy as np
import pytest
from pydantic import BaseModel

from preceptor_clients.contract import wire
from preceptor_clients.contract.errors import (
    DeadlineExceeded,
    NotFound,
    ProblemDetails,
    QueueFull,
    ServiceFailed,
    Unauthorised,
)
from preceptor_clients.contract.schemas import (
    Accepted,
    Arrival,
    Arrivals,
    CollectRequest,
    FeedbackAnswer,
    FeedbackItem,
    FeedbackOutcome,
    FeedbackOutcomes,
    FeedbackQuery,
    FeedbackRequest,
    FeedbackSubmission,
    LogprobsOutcomes,
    LogprobsRequest,
    PrefixAnswer,
    PrefixOutcome,
    PrefixSubmission,
    Prompt,
    Records,
    RunRecord,
    Services,
    Ticket,
    WeightManifest,
    WeightsOffer,
)
from preceptor_clients.http import posting
from preceptor_clients.http.connection import RetryPolicy
from preceptor_clients.http.gateway import GatewayClient

QUICK = RetryPolicy(attempts=3, first_delay_s=0.001, max_delay_s=0.002)
SHA = "0" * 64


class Gateway:
    """Tickets that are done after so many looks; it keeps what it was asked."""

    def __init__(self, answer: Callable[..., PrefixAnswer]) -> None:
        self.answer = answer
        self.looks_needed = 0
        self.final_state = "done"
        self.looks: dict[str, int] = {}
        self.queries: dict[str, PrefixSubmission] = {}
        self.requests: list[tuple[str, BaseModel]] = []
        self.blobs: dict[str, bytes] = {}
        self.refuse: httpx.Response | None = None
        self.num_refused = 0
        self.delay_s = 0.0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(self.delay_s)
        if self.refuse is not None:
            self.num_refused += 1
            return httpx.Response(self.refuse.status_code, headers=self.refuse.headers)
        path = request.url.path
        media_type = request.headers.get("content-type")
        if path == "/v1/logprobs":
            posted = wire.parse(LogprobsRequest, request.content, media_type)
            self.requests.append((path, posted))
            self.queries |= {s.idempotency_key: s for s in posted.submissions}
            return self.reply([s.idempotency_key for s in posted.submissions])
        if path == "/v1/tickets/collect":
            collect = wire.parse(CollectRequest, request.content, media_type)
            self.requests.append((path, collect))
            return self.reply(list(collect.tickets))
        if path.startswith("/v1/blobs/"):
            sha256 = path.rpartition("/")[2]
            if request.method == "PUT":
                self.blobs[sha256] = request.content
                return httpx.Response(201)
            return httpx.Response(200, content=self.blobs.get(sha256, b"other"))
        return httpx.Response(404)

    def reply(self, tickets: list[str]) -> httpx.Response:
        outcomes = tuple(self.outcome(ticket) for ticket in tickets)
        body = wire.render(LogprobsOutcomes(outcomes=outcomes))
        return httpx.Response(200, content=body, headers={"content-type": wire.FRAME})

    def outcome(self, ticket: str) -> PrefixOutcome:
        seen = self.looks[ticket] = self.looks.get(ticket, -1) + 1
        state = self.final_state if seen >= self.looks_needed else "queued"
        answer = self.answer(self.queries[ticket].query) if state == "done" else None
        return PrefixOutcome(ticket=Ticket(id=ticket, state=state, answer_key=SHA), answer=answer)

    def client(self, **options) -> GatewayClient:
        transport = httpx.MockTransport(self)
        return GatewayClient("http://gateway", "k", transport=transport, retry=QUICK, **options)


@pytest.fixture
def gateway(make_answer) -> Gateway:
    return Gateway(make_answer)


@pytest.fixture
def submissions(make_query) -> Callable[..., list[PrefixSubmission]]:
    def make(groups: str, length: int = 3) -> list[PrefixSubmission]:
        """One submission per letter; its group is the letter, or none for a dot."""
        return [
            PrefixSubmission(
                idempotency_key=f"k{i}",
                query=make_query(
                    np.full(length, i % 10, np.int32), group_id=None if g == "." else g
                ),
            )
            for i, g in enumerate(groups)
        ]

    return make


def paths(gateway: Gateway) -> list[str]:
    return [path for path, _ in gateway.requests]


async def test_answers_come_in_the_order_of_the_submissions(gateway, submissions):
    asked = submissions("abab.")

    async with gateway.client() as client:
        outcomes = await client.logprobs("e", asked, run="r", timeout_s=10)

    assert [o.ticket.id for o in outcomes] == ["k0", "k1", "k2", "k3", "k4"]
    for outcome, submission in zip(outcomes, asked, strict=True):
        np.testing.assert_array_equal(outcome.answer.token_ids_P, submission.query.response_ids)
    assert paths(gateway) == ["/v1/logprobs"]
    assert gateway.requests[0][1].wait_ms > 0


async def test_only_pending_tickets_are_collected(gateway, submissions):
    gateway.looks_needed = 2
    gateway.looks["k1"] = 1

    async with gateway.client() as client:
        outcomes = await client.logprobs("e", submissions("..."), timeout_s=10)

    assert all(o.answer is not None for o in outcomes)
    collected = [r.tickets for p, r in gateway.requests if p == "/v1/tickets/collect"]
    assert collected == [("k0", "k2"), ("k0", "k2")]


async def test_what_is_late_at_the_deadline_keeps_its_ticket_and_says_so(gateway, submissions):
    gateway.looks_needed = 10**9

    async with gateway.client() as client:
        outcomes = await client.logprobs("e", submissions(".."), timeout_s=0.2)

    assert [o.problem.code for o in outcomes] == ["deadline-exceeded"] * 2
    assert [o.ticket.state for o in outcomes] == ["queued"] * 2


async def test_a_gateway_that_does_not_hold_its_replies_is_not_asked_in_a_tight_loop(
    gateway, submissions
):
    gateway.looks_needed = 10**9

    async with gateway.client() as client:
        await client.logprobs("e", submissions("."), timeout_s=0.5)

    assert len(gateway.requests) <= 12


@pytest.mark.parametrize("state", ["waiting", "failed", "cancelled"])
async def test_tickets_that_wait_or_failed_are_not_waited_for(state, gateway, submissions):
    gateway.final_state = state

    async with gateway.client() as client:
        outcomes = await client.logprobs("e", submissions("."), timeout_s=60)

    assert outcomes[0].ticket.state == state
    assert outcomes[0].problem is None
    assert paths(gateway) == ["/v1/logprobs"]


async def test_big_lists_are_split_and_groups_are_not(gateway, submissions, monkeypatch):
    monkeypatch.setattr(posting, "CHUNK_SUBMISSIONS", 3)

    async with gateway.client() as client:
        outcomes = await client.logprobs("e", submissions("abcabbbbd."), timeout_s=10)

    posted = [
        [s.idempotency_key for s in r.submissions]
        for p, r in gateway.requests
        if p == "/v1/logprobs"
    ]
    assert sorted(posted) == [["k0", "k3"], ["k1", "k4", "k5", "k6", "k7"], ["k2", "k8", "k9"]]
    assert [o.ticket.id for o in outcomes] == [f"k{i}" for i in range(10)]
    assert all(o.answer is not None for o in outcomes)


async def test_long_responses_are_split_by_tokens(gateway, submissions, monkeypatch):
    monkeypatch.setattr(posting, "CHUNK_TOKENS", 100)

    async with gateway.client() as client:
        await client.logprobs("e", submissions("....", length=60), timeout_s=10)

    assert [len(r.submissions) for p, r in gateway.requests if p == "/v1/logprobs"] == [1] * 4


async def test_groups_in_order_are_posted_one_after_the_other(gateway, submissions, monkeypatch):
    monkeypatch.setattr(posting, "CHUNK_SUBMISSIONS", 2)

    async with gateway.client() as client:
        await client.logprobs("e", submissions("aabbcc"), batching="group", timeout_s=10)

    posted = [r for p, r in gateway.requests if p == "/v1/logprobs"]
    assert [r.submissions[0].idempotency_key for r in posted] == ["k0", "k2", "k4"]
    assert {r.batching for r in posted} == {"group"}


async def test_no_submissions_ask_nothing(gateway):
    async with gateway.client() as client:
        assert await client.logprobs("e", [], timeout_s=10) == []

    assert gateway.requests == []


async def test_a_call_that_fails_as_a_whole_raises_its_error(gateway, submissions, monkeypatch):
    monkeypatch.setattr(posting, "CHUNK_SUBMISSIONS", 1)
    gateway.refuse = httpx.Response(401)

    async with gateway.client() as client:
        with pytest.raises(Unauthorised):
            await client.logprobs("e", submissions("..."), timeout_s=10)


async def test_a_full_queue_is_asked_until_the_deadline(gateway, submissions):
    gateway.refuse = httpx.Response(429, headers={"retry-after": "0"})

    async with gateway.client() as client:
        with pytest.raises((QueueFull, DeadlineExceeded), match=r"429|not posted"):
            await client.logprobs("e", submissions("."), timeout_s=0.2)

    assert gateway.num_refused > QUICK.attempts


async def test_a_gateway_that_never_replies_meets_the_deadline(gateway, submissions):
    gateway.delay_s = 60.0

    async with gateway.client() as client:
        with pytest.raises(DeadlineExceeded, match="not posted"):
            await client.logprobs("e", submissions("."), timeout_s=0.1)


async def test_too_few_outcomes_are_refused(gateway, submissions):
    gateway.reply = lambda tickets: httpx.Response(200, json={"outcomes": []})

    async with gateway.client() as client:
        with pytest.raises(ServiceFailed, match="0 outcomes for 1"):
            await client.logprobs("e", submissions("."), timeout_s=10)


async def test_feedback_takes_the_same_way():
    items = (FeedbackItem(id="i", kind="verdict", score=1.0, source="s", version="1"),)
    answer = FeedbackAnswer(items=items, source="s", source_version="1")

    def handle(request: httpx.Request) -> httpx.Response:
        done = request.url.path == "/v1/tickets/collect"
        if not done:
            wire.parse(FeedbackRequest, request.content, wire.FRAME)
        ticket = Ticket(id="t", state="done" if done else "running", answer_key=SHA)
        outcome = FeedbackOutcome(ticket=ticket, answer=answer if done else None)
        body = wire.render(FeedbackOutcomes(outcomes=(outcome,)), wire.JSON)
        return httpx.Response(200, content=body, headers={"content-type": wire.JSON})

    query = FeedbackQuery(
        rollout_id="r",
        prompt=Prompt(ids=np.array([1])),
        response_ids=np.array([1]),
        response_text="x",
        finish_reason="stop",
        payload_sha256=SHA,
    )
    transport = httpx.MockTransport(handle)
    async with GatewayClient("http://gateway", "k", transport=transport) as client:
        outcomes = await client.feedback(
            "s", [FeedbackSubmission(idempotency_key="k", query=query)], timeout_s=10
        )

    assert outcomes[0].answer == answer


async def test_blobs_are_named_by_their_hash_and_verified(gateway):
    async with gateway.client() as client:
        sha256 = await client.put_blob(b"tests")

        assert sha256 == hashlib.sha256(b"tests").hexdigest()
        assert await client.get_blob(sha256) == b"tests"
        with pytest.raises(ServiceFailed, match="other bytes"):
            await client.get_blob(SHA)


MANIFEST = WeightManifest(
    version="p/l/1", uri="file:///w", files={"model.safetensors": SHA}, vocab_fingerprint=SHA
)
ARRIVALS = Arrivals(
    cursor=7, arrivals=(Arrival(ticket="t", answer_key=SHA, idempotency_key="k", rollout_id="r"),)
)
ROUTES = {
    "arrivals": (
        lambda c: c.arrivals("run", after=3),
        "GET /v1/arrivals?run=run&after=3&limit=1000",
        ARRIVALS,
    ),
    "weights": (lambda c: c.weights("p/l/1"), "GET /v1/weights/p/l/1", MANIFEST),
    "experts": (lambda c: c.experts(), "GET /v1/experts", Services(services=())),
    "record": (lambda c: c.record(Records()), "POST /v1/records", Accepted(new=0)),
}  # fmt: skip
SILENT = {
    "cancel": (lambda c: c.cancel("t"), "DELETE /v1/tickets/t"),
    "register_weights": (lambda c: c.register_weights(MANIFEST), "POST /v1/weights"),
    "start_run": (
        lambda c: c.start_run(RunRecord(run="r", config={}, seed=1, versions={})),
        "POST /v1/runs",
    ),
}


def recording(reply: BaseModel | None) -> tuple[list[str], httpx.MockTransport]:
    seen: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(f"{request.method} {request.url.raw_path.decode()}")
        if reply is None:
            return httpx.Response(204)
        return httpx.Response(200, content=wire.render(reply, wire.JSON))

    return seen, httpx.MockTransport(handle)


@pytest.mark.parametrize(("ask", "line", "reply"), ROUTES.values(), ids=ROUTES)
async def test_a_typed_route_returns_its_message(ask, line, reply):
    seen, transport = recording(reply)

    async with GatewayClient("http://gateway", "k", transport=transport) as client:
        assert await ask(client) == reply
    assert seen == [line]


@pytest.mark.parametrize(("ask", "line"), SILENT.values(), ids=SILENT)
async def test_a_silent_route_returns_nothing(ask, line):
    seen, transport = recording(None)

    async with GatewayClient("http://gateway", "k", transport=transport) as client:
        assert await ask(client) is None
    assert seen == [line]


async def test_a_lineage_comes_ancestors_first():
    parent = MANIFEST.model_copy(update={"version": "p/l/0"})
    seen, transport = recording(WeightsOffer(manifests=(parent, MANIFEST)))

    async with GatewayClient("http://gateway", "k", transport=transport) as client:
        lineage = await client.weight_lineage("p/l/1")

    assert [m.version for m in lineage] == ["p/l/0", "p/l/1"]
    assert seen == ["GET /v1/weights/p/l/1/lineage"]


async def test_a_trace_that_is_not_there_is_not_found():
    problem = NotFound("no target t-1").problem()
    handle = httpx.MockTransport(
        lambda r: httpx.Response(404, json=ProblemDetails.model_dump(problem, mode="json"))
    )
    async with GatewayClient("http://gateway", "k", transport=handle) as client:
        with pytest.raises(NotFound, match="t-1"):
            await client.trace("t-1", 0)
