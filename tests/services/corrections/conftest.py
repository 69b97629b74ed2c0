"""The real gateway on each database, with real people's clients; only time is moved by hand."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from preceptor_clients.contract.corrections import NewItem, Role, RoundSettings, Submission
from preceptor_clients.contract.deployment import DeployedService, Deployment
from preceptor_clients.contract.schemas import Credit as StepCredit
from preceptor_clients.contract.schemas import (
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
from preceptor_clients.http.connection import NO_RETRY
from preceptor_clients.http.corrections import AnnotatorClient, CorrectionsClient
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.targets.builder import BUILDER_VERSION, WeightedAnswer, build_target
from preceptor_services.corrections.people_expert import PeopleExpert
from preceptor_services.gateway.app import create_app
from preceptor_services.jobs.messages import (
    ClaimedJobs,
    ClaimRequest,
    ItemResult,
    JobReport,
    ReportRequest,
)
from preceptor_services.kit.blobs import LocalBlobs
from preceptor_services.kit.clock import ServerClock
from preceptor_services.store.database import Database

from ..databases import sqlite_with_tables

VOCAB = "ab" * 32
SCOPES = ("trainer", "dispatcher", "expert", "reader", "admin")


class QuietQueue:
    """A broker that keeps job ids for the test to take."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []

    async def put_all(self, service: str, entries: Any) -> int:
        self.entries += [(service, entry.job_id) for entry in entries]
        return len(entries)

    async def depth(self, service: str) -> int:
        return 10_000

    async def announce_cancel(self, job_ids: Any) -> None:
        pass

    async def ping(self) -> bool:
        return True


class MovedClock(ServerClock):
    """Server time that a test can move on."""

    moved_s = 0.0

    def now(self) -> float:
        return super().now() + self.moved_s


@dataclass
class Office:
    """One gateway, and the people who work at it."""

    app: FastAPI
    settings: Deployment
    database: Database
    queue: QuietQueue
    clock: MovedClock
    folder: Path
    closing: list[Any] = field(default_factory=list)

    def transport(self) -> httpx.ASGITransport:
        return httpx.ASGITransport(app=self.app)

    def tool(self, scope: str = "admin") -> CorrectionsClient:
        key = self.settings.keys[scope].file.read_text()
        return self._kept(
            CorrectionsClient("http://g", key, transport=self.transport(), retry=NO_RETRY)
        )

    def gateway_client(self, scope: str = "trainer") -> GatewayClient:
        key = self.settings.keys[scope].file.read_text()
        return self._kept(
            GatewayClient("http://g", key, transport=self.transport(), retry=NO_RETRY)
        )

    async def person(self, name: str, role: Role = "annotator") -> AnnotatorClient:
        issued = await self.tool().add_person(name, role)
        return self.annotator(issued.key)

    def annotator(self, key: str) -> AnnotatorClient:
        return self._kept(
            AnnotatorClient("http://g", key, transport=self.transport(), retry=NO_RETRY)
        )

    async def fill(self, count: int, round_name: str = "r", **rules: Any) -> list[str]:
        """A round of `count` items; singles unless the rules say otherwise."""
        tool = self.tool()
        await tool.put_round(round_name, RoundSettings(**({"double_share": 0.0} | rules)))
        taken = await tool.add_items(round_name, [new_item(i) for i in range(count)])
        return [item.id for item in taken if item.id is not None]

    def new_item(self, number: int, text: str | None = None, **fields: Any) -> NewItem:
        return new_item(number, text, **fields)

    def _kept(self, client: Any) -> Any:
        self.closing.append(client)
        return client


def new_item(number: int, text: str | None = None, **fields: Any) -> NewItem:
    """Item `number`, whose ids are the bytes of its text and an end token."""
    text = f"answer {number}" if text is None else text
    values: dict[str, Any] = {
        "prompt": Prompt(messages=(Message(role="user", content=f"question {number}"),)),
        "response_text": text,
        "response_ids": np.array([*text.encode(), 257], np.int32),
        "vocab_fingerprint": VOCAB,
    }
    return NewItem(**(values | fields))


def make_settings(folder: Path) -> Deployment:
    """A deployment whose keys are made of their own names."""
    (folder / "keys").mkdir(exist_ok=True)
    for name in (*SCOPES, "hash", "service"):
        (folder / "keys" / f"{name}.key").write_text(f"{name}-{'k' * 40}")
    keys = {s: {"file": folder / "keys" / f"{s}.key", "scopes": [s]} for s in SCOPES}
    keys["expert"]["service"] = "people"
    gateway = {
        "hash_key_file": folder / "keys" / "hash.key",
        "blobs": folder / "blobs",
        "weights_roots": [folder / "weights"],
    }
    return Deployment.model_validate({"gateway": gateway, "keys": keys})


@contextlib.asynccontextmanager
async def open_office(folder: Path, database_url: str, **parts: Any) -> AsyncGenerator[Office]:
    """A running gateway."""
    settings = parts.pop("settings", None) or make_settings(folder)
    database = Database.open(database_url)
    queue, clock = QuietQueue(), MovedClock()
    blobs = LocalBlobs(settings.gateway.blobs)
    app = create_app(settings, database, blobs, queue, clock=clock, **parts)
    office = Office(app, settings, database, queue, clock, folder)
    try:
        async with app.router.lifespan_context(app):
            yield office
            for client in office.closing:
                await client.aclose()
    finally:
        await database.aclose()


@pytest.fixture
async def office(tmp_path: Path, database_url: str) -> AsyncIterator[Office]:
    """A running gateway on each database."""
    async with open_office(tmp_path, database_url) as office:
        yield office


@pytest.fixture
async def small_office(tmp_path: Path) -> AsyncIterator[Office]:
    """The same on SQLite alone, for what no database can change."""
    async with open_office(tmp_path, sqlite_with_tables(tmp_path / "store.db")) as office:
        yield office


@pytest.fixture
def new_items() -> Any:
    """Makes items by number."""
    return new_item


# ---------------------------------------------------------------- people as an expert


STUDENT = Path(__file__).parents[3] / "trainer/preceptor_trainer/student/model"
PROMPT = Prompt(messages=(Message(role="user", content="?"),), ids=np.array([63], np.int32))


def ids_of(text: str) -> np.ndarray:
    return np.array([*text.encode(), 257], np.int32)


class Direct:
    """The registry's client of a service that runs in this process."""

    def __init__(self, people: PeopleExpert) -> None:
        self._people = people

    async def info(self, timeout_s: float = 1.0) -> ServiceInfo:
        return self._people.info()

    async def aclose(self) -> None:
        pass


class Town:
    """A gateway, its people's expert, and a run whose rollout went to people."""

    def __init__(self, office: Any, people: PeopleExpert) -> None:
        self.office, self.people = office, people
        self.trainer = office.gateway_client("trainer")
        self.dispatcher = office.gateway_client("dispatcher")

    async def ask(self, key: str, text: str, run: str = "demo", **fields: Any) -> Any:
        values: dict[str, Any] = {
            "prompt": PROMPT,
            "response_ids": ids_of(text),
            "vocab_fingerprint": self.people.info().capabilities.vocab_fingerprint or "",
        }
        query = PrefixQuery(**(values | fields))
        submission = PrefixSubmission(idempotency_key=key, query=query)
        [posted] = await self.trainer.submit_logprobs("people", [submission], run=run)
        await self.dispatch()
        return query, posted.ticket.id

    async def dispatch(self) -> None:
        """What a dispatcher does, in one pass."""
        jobs = tuple(dict.fromkeys(job for _, job in self.office.queue.entries))
        self.office.queue.entries.clear()
        request = ClaimRequest(dispatcher="d", job_ids=jobs)
        claims = await self.dispatcher.call(
            "POST", "/v1/internal/claims", body=request, reply=ClaimedJobs
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

    def ids_of(self, text: str) -> np.ndarray:
        return ids_of(text)

    async def outcome(self, ticket: str) -> Any:
        [outcome] = await self.trainer.collect_logprobs([ticket])
        return outcome

    async def correct(self, person: Any, text: str) -> str:
        return await self.correct_claim(person, await person.claim(), text)

    async def correct_claim(self, person: Any, claim: Any, text: str) -> str:
        await person.submit(claim.id, Submission(decision="edit", text=text))
        return claim.item.summary.id

    async def record_rollout(self, rollout_id: str, text: str, run: str = "demo") -> None:
        """The run, its weights and the rollout that people were asked about."""
        folder = self.office.folder / "weights" / "w0"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").write_bytes(b"w")
        version = f"{run}/l0/0"
        manifest = WeightManifest(
            version=version,
            uri=folder.as_uri(),
            files={"model.safetensors": hashlib.sha256(b"w").hexdigest()},
            vocab_fingerprint="ab" * 32,
        )
        await self.trainer.register_weights(manifest)
        await self.trainer.start_run(RunRecord(run=run, config={}, seed=0, versions={}))
        await self.trainer.start_lineage(LineageRecord(run=run, lineage="l0"))
        ids = ids_of(text)
        rollout = RolloutRecord(
            rollout_id=rollout_id,
            run=run,
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

    async def use(self, rollout_id: str, run: str, query: Any, outcomes: list[Any]) -> str:
        """A target of these answers, and a step of the run that trains on it."""
        answers = [WeightedAnswer(o.ticket.answer_id, query, o.answer, 1.0) for o in outcomes]
        target = build_target(rollout_id, np.ones(len(query.response_ids), np.bool_), answers)
        record = TargetRecord(
            target_id=target.id,
            rollout_id=rollout_id,
            builder_version=BUILDER_VERSION,
            settings={},
            answer_ids=tuple(answer.answer_id for answer in answers),
            feedback_ids=(),
            arrays=target.to_wire(),
            content_hash=target.content_hash(),
        )
        await self.trainer.record(Records(targets=(record,)))
        zeros = np.zeros(len(query.response_ids), np.float32)
        used = StepCredit(
            rollout_id=rollout_id,
            target_id=target.id,
            costs=zeros,
            advantages=zeros,
            logprobs=zeros,
        )
        await self.trainer.record_step(
            StepRecord(
                run=run,
                lineage="l0",
                step=0,
                loss=1.0,
                metrics={},
                consumed=(used,),
                weights_before=f"{run}/l0/0",
                weights_after=f"{run}/l0/0",
            )
        )
        return target.id


def _result(key: str, reply: Any) -> ItemResult:
    if isinstance(reply, PrefixAnswer):
        return ItemResult(answer_key=key, prefix=reply)
    return ItemResult(answer_key=key, accepted=True)


@pytest.fixture
def people_options() -> dict[str, Any]:
    """Options of the people's expert that a test changes."""
    return {}


@pytest.fixture
async def town(tmp_path: Path, people_options: dict[str, Any]) -> AsyncIterator[Town]:
    """One gateway on SQLite whose one expert is people."""
    settings = make_settings(tmp_path)
    service = DeployedService(url="http://nowhere", key_file=tmp_path / "keys" / "service.key")
    settings = settings.model_copy(update={"experts": {"people": service}})
    apps: list[FastAPI] = []

    def connect() -> CorrectionsClient:
        key = settings.keys["expert"].file.read_text()
        transport = httpx.ASGITransport(app=apps[0])
        return CorrectionsClient("http://g", key, transport=transport, retry=NO_RETRY)

    people = PeopleExpert(model=str(STUDENT), connect=connect, poll_s=3600.0, **people_options)
    url = sqlite_with_tables(tmp_path / "store.db")
    parts: dict[str, Any] = {
        "settings": settings,
        "connect": lambda url, key, addresses: Direct(people),
    }
    async with open_office(tmp_path, url, **parts) as office:
        apps.append(office.app)
        for entry in office.app.state.registry._entries.values():
            await entry.heard.wait()
        await people.start()
        yield Town(office, people)
        await people.stop()


@pytest.fixture
def make_app() -> Any:
    """Makes a gateway's application on SQLite, for whoever serves it."""

    def made(folder: Path) -> FastAPI:
        settings = make_settings(folder)
        database = Database.open(sqlite_with_tables(folder / "store.db"))
        blobs = LocalBlobs(settings.gateway.blobs)
        return create_app(settings, database, blobs, QuietQueue())

    return made
