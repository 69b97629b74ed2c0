"""The real gateway behind its real client; the queue records, services only say who they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from preceptor_clients.contract.deployment import Deployment
from preceptor_clients.contract.errors import ProblemDetails, ServiceUnavailable, from_problem
from preceptor_clients.contract.schemas import (
    Capabilities,
    FeedbackAnswer,
    FeedbackItem,
    FeedbackQuery,
    FeedbackSubmission,
    Message,
    PrefixAnswer,
    PrefixQuery,
    PrefixSubmission,
    Prompt,
    ServiceInfo,
    ServiceLimits,
    WeightManifest,
)
from preceptor_clients.http.connection import NO_RETRY
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.sdk.answers import Distributions, build_answer
from preceptor_services.gateway.app import create_app
from preceptor_services.jobs.messages import (
    ClaimedJobs,
    ClaimRequest,
    ItemResult,
    JobReport,
    ReportReply,
    ReportRequest,
)
from preceptor_services.jobs.streams import Entry
from preceptor_services.kit.blobs import LocalBlobs
from preceptor_services.kit.clock import ServerClock
from preceptor_services.store.database import Database

from .databases import sqlite_with_tables

VOCAB = "ab" * 32
VOCAB_SIZE = 16

EXPERT = ServiceInfo(
    name="uniform",
    role="expert",
    version="1",
    capabilities=Capabilities(
        max_top_k=8, vocab_fingerprint=VOCAB, vocab_size=VOCAB_SIZE, max_context=64
    ),
    limits=ServiceLimits(max_batch=4),
)
TEACHER = EXPERT.model_copy(
    update={
        "name": "teacher",
        "capabilities": EXPERT.capabilities.model_copy(update={"weights": True}),
    }
)
SOURCE = ServiceInfo(name="executor", role="source", version="7")


class RecordingQueue:
    """Keeps what was put and announced; can be down, and can lose everything."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []
        self.cancelled: list[str] = []
        self.down = False

    async def put_all(self, service: str, entries: Sequence[Entry]) -> int:
        self._check()
        self.entries += [(service, entry.job_id) for entry in entries]
        return len(entries)

    async def depth(self, service: str) -> int:
        self._check()
        return sum(name == service for name, _ in self.entries)

    async def announce_cancel(self, job_ids: Sequence[str]) -> None:
        self._check()
        self.cancelled += job_ids

    async def ping(self) -> bool:
        return not self.down

    def take(self) -> list[str]:
        """All jobs, acknowledged at once."""
        taken, self.entries = self.entries, []
        return [job_id for _, job_id in taken]

    def _check(self) -> None:
        if self.down:
            raise ServiceUnavailable("the broker is down")


class MovedClock(ServerClock):
    """Server time that a test can move on."""

    moved_s = 0.0

    def now(self) -> float:
        return super().now() + self.moved_s


class SaysWhoItIs:
    """A service as the registry sees it."""

    def __init__(self, service: ServiceInfo) -> None:
        self._service = service

    async def info(self, timeout_s: float = 1.0) -> ServiceInfo:
        return self._service

    async def aclose(self) -> None:
        pass


@dataclass
class World:
    """One gateway and everybody who talks to it."""

    app: FastAPI
    settings: Deployment
    database: Database
    queue: RecordingQueue
    clock: MovedClock
    folder: Path
    clients: dict[str, GatewayClient] = field(default_factory=dict)

    @property
    def trainer(self) -> GatewayClient:
        return self.clients["trainer"]

    def client(self, key: str | None) -> GatewayClient:
        transport = httpx.ASGITransport(app=self.app)
        return GatewayClient("http://gateway", key, transport=transport, retry=NO_RETRY)

    # ---------------------------------------------------- as a trainer

    def query(self, response: Sequence[int] = (1, 2, 3), **fields: Any) -> PrefixQuery:
        values: dict[str, Any] = {
            "prompt": Prompt(ids=np.array([5, 6], np.int32)),
            "response_ids": np.array(response, np.int32),
            "vocab_fingerprint": VOCAB,
            "top_k": 4,
        }
        return PrefixQuery(**(values | fields))

    def submission(self, key: str, response: Sequence[int] = (1, 2, 3), **fields: Any) -> Any:
        return PrefixSubmission(idempotency_key=key, query=self.query(response, **fields))

    async def feedback_submission(self, key: str, text: str = "x") -> FeedbackSubmission:
        sha = await self.trainer.put_blob(json.dumps({"tests": [1, 2]}).encode())
        return FeedbackSubmission(
            idempotency_key=key,
            query=FeedbackQuery(
                rollout_id=f"r-{key}",
                prompt=Prompt(messages=(Message(role="user", content="go"),)),
                response_ids=np.array([1, 2, 3], np.int32),
                response_text=text,
                finish_reason="stop",
                payload_sha256=sha,
            ),
        )

    async def publish(
        self, version: str, parent: str | None = None, *, checkpoint: bool = False
    ) -> WeightManifest:
        folder = self.folder / "weights" / version.replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        content = version.encode()
        (folder / "model.safetensors").write_bytes(content)
        manifest = WeightManifest(
            version=version,
            parent=parent,
            uri=folder.as_uri(),
            files={"model.safetensors": hashlib.sha256(content).hexdigest()},
            vocab_fingerprint=VOCAB,
            checkpoint=checkpoint,
        )
        await self.trainer.register_weights(manifest)
        return manifest

    # ---------------------------------------------------- as a dispatcher

    async def claim(self, job_ids: Sequence[str], name: str = "d1") -> ClaimedJobs:
        request = ClaimRequest(dispatcher=name, job_ids=tuple(job_ids))
        return await self.clients["dispatcher"].call(
            "POST", "/v1/internal/claims", body=request, reply=ClaimedJobs
        )

    async def report(
        self, job: Any, results: Sequence[ItemResult] = (), name: str = "d1", **fields: Any
    ) -> None:
        """One job's report; raises what it is refused for."""
        [problem] = await self.report_jobs((job, results, fields), name=name)
        if problem is not None:
            raise from_problem(problem)

    async def report_jobs(self, *reports: Any, name: str = "d1") -> list[ProblemDetails | None]:
        """One call's report: a job, its results and other fields of each; what is refused."""
        request = ReportRequest(
            dispatcher=name,
            latency_ms=1.0,
            jobs=tuple(
                JobReport(
                    **({"job_id": job.job_id, "fence": job.fence, "results": tuple(r)} | fields)
                )
                for job, r, fields in reports
            ),
        )
        reply = await self.clients["dispatcher"].call(
            "POST", "/v1/internal/reports", body=request, reply=ReportReply
        )
        refused = {one.job_id: one.problem for one in reply.refused}
        return [refused.get(job.job_id) for job, _, _ in reports]

    async def work(self) -> ClaimedJobs:
        """Answers everything that stands on the queue."""
        claims = await self.claim(self.queue.take())
        for job in claims.jobs:
            await self.report(job, [self.result(job, item) for item in job.items])
        return claims

    def result(self, job: Any, item: Any) -> ItemResult:
        if item.prefix is not None:
            return ItemResult(
                answer_key=item.answer_key, prefix=self.uniform(item.prefix, job.service)
            )
        return ItemResult(answer_key=item.answer_key, feedback=self.verdict(item.feedback))

    def uniform(self, query: PrefixQuery, expert: str = "uniform", **fields: Any) -> PrefixAnswer:
        """Every token is as likely as any other."""
        P, K, logprob = query.num_positions, query.top_k, -np.log(VOCAB_SIZE)
        version = None if query.weights is None else query.weights.version
        values: dict[str, Any] = {
            "weights_before": version,
            "weights_after": version,
            "used_feedback": tuple(item.id for item in query.feedback),
            "context_hash": "cd" * 32,
        }
        return build_answer(
            query,
            Distributions(
                ids_PK=np.tile(np.arange(K, dtype=np.int32), (P, 1)),
                logprobs_PK=np.full((P, K), logprob, np.float32),
                own_logprobs_P=np.full(P, logprob, np.float32),
            ),
            expert=expert,
            expert_version="1",
            **(values | fields),
        )

    def verdict(self, query: FeedbackQuery) -> FeedbackAnswer:
        item = FeedbackItem(
            id="0",
            kind="execution",
            score=0.0,
            text=f"{query.response_text} is wrong, tests {query.payload}",
            source="executor",
            version="7",
            details={"isolation": "none at all"},
        )
        return FeedbackAnswer(items=(item,), source="executor", source_version="7")


def make_settings(folder: Path, **gateway: Any) -> Deployment:
    """A deployment whose keys are made of their own names."""
    keys = {}
    (folder / "keys").mkdir()
    for name in ("trainer", "other", "dispatcher", "expert", "reader", "admin", "hash", "service"):
        file = folder / "keys" / f"{name}.key"
        file.write_text(f"{name}-{'k' * 40}")
        if name not in ("hash", "service"):
            scope = "trainer" if name == "other" else name
            bound = {"service": ["uniform", "teacher"]} if scope == "expert" else {}
            keys[name] = {"file": file, "scopes": [scope], **bound}
    (folder / "keys" / "services").mkdir()
    (folder / "keys" / "services" / "service.key").write_text(f"service-{'k' * 40}")
    service = {"url": "http://nowhere", "key_file": folder / "keys" / "service.key"}
    service |= {"self_test": False}  # these services only say who they are
    return Deployment.model_validate(
        {
            "gateway": {
                "hash_key_file": folder / "keys" / "hash.key",
                "service_keys": folder / "keys" / "services",
                "blobs": folder / "blobs",
                "weights_roots": [folder / "weights"],
                "max_body_bytes": 1 << 20,
                **gateway,
            },
            "keys": keys,
            "experts": {"uniform": service, "teacher": service},
            "sources": {"executor": service},
        }
    )


@pytest.fixture
def gateway_options() -> dict[str, Any]:
    """Settings of `[gateway]` that a test changes."""
    return {}


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return sqlite_with_tables(tmp_path / "gateway.db")


@pytest.fixture
async def world(
    tmp_path: Path, sqlite_url: str, gateway_options: dict[str, Any]
) -> AsyncIterator[World]:
    """A running gateway."""
    infos = iter((EXPERT, TEACHER, SOURCE))
    settings = make_settings(tmp_path, **gateway_options)
    database = Database.open(sqlite_url)
    queue, clock = RecordingQueue(), MovedClock()
    app = create_app(
        settings,
        database,
        LocalBlobs(settings.gateway.blobs),
        queue,
        connect=lambda url, key, addresses: SaysWhoItIs(next(infos)),
        clock=clock,
    )
    world = World(app, settings, database, queue, clock, tmp_path)
    async with app.router.lifespan_context(app):
        for entry in app.state.registry._entries.values():
            await entry.heard.wait()
        for name, key in settings.keys.items():
            world.clients[name] = world.client(key.file.read_text())
        yield world
        for client in world.clients.values():
            await client.aclose()
    await database.aclose()
