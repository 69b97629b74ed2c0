"""People as an expert: late answers, the take-over at once, revisions, retirement and the trace."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from preceptor_clients.corrections import NewItem, Submission
from preceptor_clients.corrections_client import CorrectionsClient
from preceptor_clients.edits import EditRules
from preceptor_clients.http import NO_RETRY
from preceptor_clients.schemas import Credit as StepCredit
from preceptor_clients.schemas import (
    LineageRecord,
    Message,
    PrefixAnswer,
    PrefixQuery,
    PrefixSubmission,
    Prompt,
    Records,
    RolloutRecord,
    RunRecord,
    ServiceInfo,
    StepRecord,
    TargetRecord,
    WeightManifest,
)
from preceptor_clients.targets import BUILDER_VERSION, WeightedAnswer, build_target
from preceptor_services.corrections.expert import People, rules_of, version_of
from preceptor_services.internal import (
    ClaimRequest,
    Claims,
    ItemResult,
    JobReport,
    ReportRequest,
)

STUDENT = Path(__file__).parents[3] / "trainer/preceptor_trainer/student/model"
PROMPT = Prompt(messages=(Message(role="user", content="?"),), ids=np.array([63], np.int32))


def ids_of(text: str) -> np.ndarray:
    return np.array([*text.encode(), 257], np.int32)


class Direct:
    """The registry's client of a service that runs in this process."""

    def __init__(self, people: People) -> None:
        self._people = people

    async def info(self, timeout_s: float = 1.0) -> ServiceInfo:
        return self._people.info()

    async def aclose(self) -> None:
        pass


class Town:
    """A gateway, its people's expert, and a run whose rollout went to people."""

    def __init__(self, office: Any, people: People) -> None:
        self.office, self.people = office, people
        self.trainer = office.gateway_client("trainer")
        self.dispatcher = office.gateway_client("dispatcher")

    async def ask(self, key: str, text: str, **fields: Any) -> Any:
        query = PrefixQuery(
            prompt=PROMPT,
            response_ids=ids_of(text),
            vocab_fingerprint=self.people.info().capabilities.vocab_fingerprint or "",
            **fields,
        )
        submission = PrefixSubmission(idempotency_key=key, query=query)
        [posted] = await self.trainer.submit_logprobs("people", [submission], run="demo")
        await self._dispatch()
        return query, posted.ticket.id

    async def _dispatch(self) -> None:
        """What a dispatcher does, in one pass."""
        jobs = tuple(dict.fromkeys(job for _, job in self.office.queue.entries))
        self.office.queue.entries.clear()
        request = ClaimRequest(dispatcher="d", job_ids=jobs)
        claims = await self.dispatcher.call(
            "POST", "/v1/internal/claims", body=request, reply=Claims
        )
        for job in claims.jobs:
            keys = [item.answer_key for item in job.items]
            replies = await self.people.logprobs([item.prefix for item in job.items], keys)
            results = tuple(_result(k, r) for k, r in zip(keys, replies, strict=True))
            await self._report(job, results)

    async def _report(self, job: Any, results: tuple[ItemResult, ...]) -> None:
        report = JobReport(job_id=job.job_id, fence=job.fence, results=results)
        body = ReportRequest(dispatcher="d", latency_ms=1.0, jobs=(report,))
        await self.dispatcher.call("POST", "/v1/internal/reports", body=body)

    async def outcome(self, ticket: str) -> Any:
        [outcome] = await self.trainer.collect_logprobs([ticket])
        return outcome

    async def correct(self, person: Any, text: str) -> str:
        claim = await person.claim()
        await person.submit(claim.id, Submission(decision="edit", text=text))
        return claim.item.summary.id

    async def record_rollout(self, rollout_id: str, text: str) -> None:
        """The run, its weights and the rollout that people were asked about."""
        folder = self.office.folder / "weights" / "w0"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").write_bytes(b"w")
        version = "demo/l0/0"
        manifest = WeightManifest(
            version=version,
            uri=folder.as_uri(),
            files={"model.safetensors": hashlib.sha256(b"w").hexdigest()},
            vocab_fingerprint="ab" * 32,
        )
        await self.trainer.register_weights(manifest)
        await self.trainer.start_run(RunRecord(run="demo", config={}, seed=0, versions={}))
        await self.trainer.start_lineage(LineageRecord(run="demo", lineage="l0"))
        ids = ids_of(text)
        rollout = RolloutRecord(
            rollout_id=rollout_id,
            run="demo",
            lineage="l0",
            step=0,
            problem_id="p",
            group_id="g",
            prompt=PROMPT,
            response_ids=ids,
            response_text=text,
            behaviour_logprobs=np.full(len(ids), -1.0, np.float32),
            owned=np.ones(len(ids), np.bool_),
            weights=version,
            finish_reason="stop",
            sampling={},
        )
        await self.trainer.record(Records(rollouts=(rollout,)))


def _result(key: str, reply: Any) -> ItemResult:
    if isinstance(reply, PrefixAnswer):
        return ItemResult(answer_key=key, prefix=reply)
    return ItemResult(answer_key=key, accepted=True)


@pytest.fixture
async def town(tmp_path: Path, open_town_office: Any) -> AsyncIterator[Town]:
    """One gateway whose expert is people."""
    apps: list[Any] = []

    def connect() -> CorrectionsClient:
        key = (tmp_path / "keys" / "expert.key").read_text()
        transport = httpx.ASGITransport(app=apps[0])
        return CorrectionsClient("http://g", key, transport=transport, retry=NO_RETRY)

    people = People(model=str(STUDENT), connect=connect, poll_s=3600.0)
    async with open_town_office(tmp_path, lambda url, key: Direct(people)) as office:
        apps.append(office.app)
        for entry in office.app.state.gateway.registry._entries.values():
            await entry.heard.wait()
        await people.start()
        yield Town(office, people)
        await people.stop()


async def test_a_question_waits_for_people_and_its_answer_arrives(town: Town) -> None:
    ann = await town.office.person("ann")
    _, ticket = await town.ask("k", "x[0]+1", rollout_id="r")
    before = (await town.outcome(ticket)).ticket.state

    await town.correct(ann, "x[9]+1")
    await town.people.answer_due()
    await town.people.answer_due()
    after = await town.outcome(ticket)
    arrivals = (await town.trainer.arrivals("demo")).arrivals

    assert before == "waiting"
    assert after.ticket.state == "done"
    assert after.answer.kind == "point"
    assert np.flatnonzero(after.answer.mask_P).tolist() == [2]
    assert after.answer.ids_PK[2].tolist() == [ord("9")]
    assert [a.rollout_id for a in arrivals] == ["r"]


async def test_positions_that_nobody_asked_about_are_not_answered(town: Town) -> None:
    ann = await town.office.person("ann")
    _, ticket = await town.ask("k", "x[0]+1", positions=((1, 3),))

    await town.correct(ann, "x[9]+1")
    await town.people.answer_due()

    assert (await town.outcome(ticket)).answer.mask_P.tolist() == [False, True]


async def test_an_accepted_response_is_answered_with_no_opinion(town: Town) -> None:
    ann = await town.office.person("ann")
    _, ticket = await town.ask("k", "x")

    claim = await ann.claim()
    await ann.submit(claim.id, Submission(decision="accept"))
    await town.people.answer_due()

    assert not (await town.outcome(ticket)).answer.mask_P.any()


async def test_the_take_over_is_answered_at_once(town: Town) -> None:
    ann = await town.office.person("ann")
    await town.ask("k", "x[0]+1")
    await town.correct(ann, "x[99]")

    _, ticket = await town.ask("k2", "x[99]")
    outcome = await town.outcome(ticket)

    assert outcome.ticket.state == "done"
    labelled = np.flatnonzero(outcome.answer.mask_P).tolist()
    assert labelled == [2, 3, 4, 5]
    assert outcome.answer.ids_PK[labelled, 0].tolist() == [*b"99]", 257]


async def test_a_revision_is_a_new_answer_and_arrives_again(town: Town) -> None:
    ann = await town.office.person("ann")
    eve = await town.office.person("eve", "reviewer")
    _, ticket = await town.ask("k", "x[0]", rollout_id="r")
    item_id = await town.correct(ann, "x[1]")
    await town.people.answer_due()

    revised = Submission(decision="edit", text="x[2]")
    await eve.review(item_id, "approve", submission=revised)
    await town.people.answer_due()
    first, second = (await town.trainer.arrivals("demo")).arrivals
    old, new = await town.outcome(first.ticket), await town.outcome(second.ticket)

    assert first.ticket == ticket
    assert second.rollout_id == "r"
    assert old.ticket.answer_id != new.ticket.answer_id
    assert old.answer.ids_PK[2].tolist() == [ord("1")]
    assert new.answer.ids_PK[2].tolist() == [ord("2")]


async def test_a_target_traces_to_person_edit_and_reviewer_and_is_rebuilt_without_them(
    town: Town,
) -> None:
    ann = await town.office.person("ann")
    eve = await town.office.person("eve", "reviewer")
    await town.record_rollout("r", "x[0]")
    query, ticket = await town.ask("k", "x[0]", rollout_id="r")
    item_id = await town.correct(ann, "x[1]")
    version = (await eve.item(item_id)).versions[0]
    await eve.review(item_id, "approve", version=version.id)
    await town.people.answer_due()
    outcome = await town.outcome(ticket)
    weighted = WeightedAnswer(outcome.ticket.answer_id, query, outcome.answer, 1.0)
    target = build_target("r", np.ones(len(query.response_ids), np.bool_), [weighted])
    record = TargetRecord(
        target_id=target.id,
        rollout_id="r",
        builder_version=BUILDER_VERSION,
        settings={},
        answer_ids=(weighted.answer_id,),
        feedback_ids=(),
        arrays=target.to_wire(),
        content_hash=target.content_hash(),
    )
    await town.trainer.record(Records(targets=(record,)))
    zeros = np.zeros(len(query.response_ids), np.float32)
    used = StepCredit(
        rollout_id="r", target_id=target.id, costs=zeros, advantages=zeros, logprobs=zeros
    )
    step = StepRecord(
        run="demo",
        lineage="l0",
        step=0,
        loss=1.0,
        metrics={},
        consumed=(used,),
        weights_before="demo/l0/0",
        weights_after="demo/l0/0",
    )
    await town.trainer.record_step(step)

    trace = await town.trainer.trace(target.id, 2)
    retirement = await town.office.tool().retire("ann", "misread the guidelines")

    [source] = trace.sources
    [behind] = source.feedback
    assert source.entries == ((ord("1"), 1.0),)
    assert (behind.text, behind.details["person"]) == ("x[1]", "ann")
    assert behind.details["reviewer"] == "eve"
    assert retirement.versions == (version.id,)
    [listed] = retirement.targets
    assert (listed.target_id, listed.consumed_by) == (target.id, ("l0/0",))
    assert listed.rebuilt_as is None
    assert retirement.runs == ("demo",)
    kinds = [r.kind for r in (await town.office.tool("trainer").results()).results]
    assert kinds[-1] == "retired"


async def test_tokens_are_shown_with_their_place_in_the_text(town: Town) -> None:
    eve = await town.office.person("eve", "reviewer")
    fingerprint = town.people.info().capabilities.vocab_fingerprint
    item = NewItem(
        prompt=PROMPT,
        response_text="é1",
        response_ids=ids_of("é1"),
        vocab_fingerprint=fingerprint,
    )
    pieces = [chr(i) if i < 256 else "" for i in range(261)]
    tool = town.office.tool("expert")
    await tool.put_vocabulary(fingerprint or "", pieces)

    [taken] = await town.office.tool("trainer").add_items("r", [item])
    view = await eve.experts(taken.id or "")

    assert [(t.start, t.end) for t in view.tokens] == [(0, 0), (0, 1), (1, 2), (2, 2)]


def test_a_version_names_its_rules() -> None:
    rules = EditRules(smoothing=0.05, accepted=True, rejoin_tokens=7)

    assert rules_of(version_of(rules)) == rules
    assert rules_of("edits-0/accepted/1/0.0") is None
