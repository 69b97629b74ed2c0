"""A gateway process with people, rounds and items, for a browser to visit.

    python tests/browser/office.py FOLDER PORT [demo]

The folder keeps everything: the same command on the same folder goes on after a crash. Two experts
are registered; the one rollout of a run that stands in the queue has real answers of both.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI

from preceptor_clients.contract.corrections import NewItem, RoundSettings
from preceptor_clients.contract.deployment import Deployment
from preceptor_clients.contract.schemas import (
    Capabilities,
    FeedbackItem,
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
    TargetRecord,
    WeightManifest,
)
from preceptor_clients.http.connection import NO_RETRY
from preceptor_clients.http.corrections import CorrectionsClient
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.sdk.answers import Distributions, build_answer
from preceptor_clients.targets.builder import BUILDER_VERSION, WeightedAnswer, build_target
from preceptor_services.gateway.app import create_app
from preceptor_services.jobs.messages import (
    ClaimedJobs,
    ClaimRequest,
    ItemResult,
    JobReport,
    ReportRequest,
)
from preceptor_services.kit.blobs import LocalBlobs
from preceptor_services.store.database import Database

VOCAB = "ab" * 32
SCOPES = ("trainer", "dispatcher", "expert", "reader", "admin")
PEOPLE = {"ada": "annotator", "ben": "annotator", "cleo": "annotator", "ruth": "reviewer"}

GUIDELINES = """## What to do

Write the response that you would have wanted to get. Change **as little as you can**: each place
that you change is one thing the model learns.

- Keep names, order and layout that were right.
- Code must run. The executor's output says which test failed.
- If the response is right, accept it; do not polish.

## What to flag

Private data, broken prompts, and anything that you would not want to show a colleague. `Skip` is
for what you do not know."""

PROMPT = """Write a Python function `running_mean(values, window)` that returns the mean of every \
full window of `window` neighbouring values, as a list of floats.

It raises `ValueError` where `window` is smaller than 1, and returns an empty list where there are \
fewer values than that."""
# Tokens as a word-level tokenizer would cut them; after ~, what the experts would rather have said.
_CUT = (
    "def| running|_mean|(|values|,| window|)|:\n"
    '|    if~ """Mean~    assert| window| <~ <=| 0~ 1|:\n'
    '|        raise~        return| ValueError|("~(f|window| must~ is| be| positive~ at|")|\n'
    "|    means~    sums~    result| =| []|\n"
    "|    for| start~ i| in| range|(|len|(|values|)| -| window|):\n~ + 1):\n"
    "|        chunk~        part| =| values|[|start|:| start| +| window|]\n"
    "|        means|.append|(|sum|(|chunk|)| /~ //| len~ window|(chunk|))\n"
    "|    return| means|"
)
PIECES = [(piece, tuple(rest)) for piece, *rest in (cut.split("~") for cut in _CUT.split("|"))]
RESPONSE = "".join(piece for piece, _ in PIECES)
WORDS = tuple(dict.fromkeys([w for p, a in PIECES for w in (p, *a)]))
FEEDBACK = (
    FeedbackItem(
        id="f1",
        kind="execution",
        score=0.0,
        source="executor",
        version="7",
        text=(
            "2 of 4 tests failed\n\nFAILED test_all_windows\n    running_mean([1, 2, 3, 4], 2)\n"
            "    expected [1.5, 2.5, 3.5]\n    got      [1.5, 2.5]\n\nFAILED test_window_of_zero\n"
            "    ValueError was not raised\n    ZeroDivisionError: division by zero"
        ),
    ),
    FeedbackItem(
        id="f2",
        kind="judge",
        score=0.4,
        source="judge-large",
        version="3",
        text=(
            "The structure is sound, and the error message is clear. But the range ends one "
            "window too early, so the last mean is missing, and a window of 0 passes the check."
        ),
    ),
)


class Jobs:
    """A broker that keeps job ids for the seeding to take."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    async def put_all(self, service: str, entries: Any) -> int:
        self.ids += [entry.job_id for entry in entries]
        return len(entries)

    async def depth(self, service: str) -> int:
        return 0

    async def announce_cancel(self, job_ids: Any) -> None:
        pass

    async def ping(self) -> bool:
        return True


class SaysWhoItIs:
    """An expert as the registry sees it."""

    def __init__(self, url: str) -> None:
        self._info = ServiceInfo(
            name=url.rpartition("/")[2],
            role="expert",
            version="1",
            capabilities=Capabilities(
                max_top_k=8, vocab_fingerprint=VOCAB, vocab_size=len(WORDS), max_context=512
            ),
        )

    async def info(self, timeout_s: float = 1.0) -> ServiceInfo:
        return self._info

    async def aclose(self) -> None:
        pass


def make_settings(folder: Path) -> Deployment:
    """A deployment whose keys are made of their own names."""
    (folder / "keys").mkdir(exist_ok=True, parents=True)
    for name in (*SCOPES, "hash", "service"):
        (folder / "keys" / f"{name}.key").write_text(f"{name}-{'k' * 40}")
    # These services only say who they are.
    services = {"key_file": folder / "keys" / "service.key", "self_test": False}
    return Deployment.model_validate(
        {
            "gateway": {
                "hash_key_file": folder / "keys" / "hash.key",
                "blobs": folder / "blobs",
                "weights_roots": [folder / "weights"],
            },
            "keys": {
                s: {
                    "file": folder / "keys" / f"{s}.key",
                    "scopes": [s],
                    "service": ["people"] if s == "expert" else [],
                }
                for s in SCOPES
            },
            "experts": {
                name: {"url": f"http://nowhere/{name}", **services}
                for name in ("self-teacher", "teacher-large")
            },
        }
    )


def demo_item() -> NewItem:
    """The response that the experts have answered on."""
    return NewItem(
        prompt=Prompt(messages=(Message(role="user", content=PROMPT),)),
        response_text=RESPONSE,
        response_ids=_ids(),
        vocab_fingerprint=VOCAB,
        feedback=FEEDBACK,
        rollout_id="ro-1",
        problem_id="running_mean",
        run="demo",
        step=12,
        reason="failed",
        priority=5.0,
    )


def _ids() -> np.ndarray:
    return np.array([WORDS.index(piece) for piece, _ in PIECES], np.int32)


# ---------------------------------------------------------------- seeding


async def seed(
    app: FastAPI, jobs: Jobs, settings: Deployment, folder: Path, has_demo: bool
) -> None:
    """People with keys and one round; the demo is a rollout with what experts would have said."""

    def client(cls: Any, scope: str) -> Any:
        key = settings.keys[scope].file.read_text()
        return cls("http://g", key, transport=httpx.ASGITransport(app=app), retry=NO_RETRY)

    for entry in app.state.registry._entries.values():
        await entry.heard.wait()
    admin, trainer = client(CorrectionsClient, "admin"), client(GatewayClient, "trainer")
    dispatcher = client(GatewayClient, "dispatcher")
    keys = {name: (await admin.add_person(name, role)).key for name, role in PEOPLE.items()}
    rules = RoundSettings(guidelines=GUIDELINES, double_share=0.0, lease_s=900)
    await admin.put_round("demo-1", rules)
    await client(CorrectionsClient, "expert").put_vocabulary(VOCAB, [_bytes(w) for w in WORDS])
    if has_demo:
        await _record(trainer, dispatcher, jobs, folder)
        await admin.add_items("demo-1", [demo_item()])
    (folder / "people.json").write_text(json.dumps(keys))
    for one in (admin, trainer, dispatcher):
        await one.aclose()


def _bytes(word: str) -> str:
    return word.encode().decode("latin-1")


async def _record(trainer: Any, dispatcher: Any, jobs: Jobs, folder: Path) -> None:
    weights = folder / "weights" / "w0"
    weights.mkdir(parents=True)
    (weights / "model.safetensors").write_bytes(b"w")
    manifest = WeightManifest(
        version="demo/l0/0",
        uri=weights.as_uri(),
        files={"model.safetensors": hashlib.sha256(b"w").hexdigest()},
        vocab_fingerprint=VOCAB,
    )
    await trainer.register_weights(manifest)
    await trainer.start_run(RunRecord(run="demo", config={}, seed=0, versions={}))
    await trainer.start_lineage(LineageRecord(run="demo", lineage="l0"))
    ids = _ids()
    unsure = np.array([bool(alternatives) for _, alternatives in PIECES])
    rollout = RolloutRecord(
        rollout_id="ro-1",
        run="demo",
        lineage="l0",
        step=12,
        problem_id="running_mean",
        group_id="g",
        prompt=Prompt(messages=(Message(role="user", content=PROMPT),), ids=ids[:4]),
        response_ids=ids,
        response_text=RESPONSE,
        behaviour_logprobs=np.where(unsure, -0.9, -0.04).astype(np.float32),
        owned=np.ones(len(ids), np.bool_),
        weights="demo/l0/0",
        finish_reason="stop",
        sampling={},
    )
    await trainer.record(Records(rollouts=(rollout,)))
    query = PrefixQuery(
        prompt=Prompt(ids=ids[:4]), response_ids=ids, vocab_fingerprint=VOCAB, top_k=4
    )
    answers = [await _ask(trainer, dispatcher, jobs, name, query) for name in _SURE]
    target = build_target("ro-1", np.ones(len(ids), np.bool_), answers)
    record = TargetRecord(
        target_id=target.id,
        rollout_id="ro-1",
        builder_version=BUILDER_VERSION,
        settings={},
        answer_ids=tuple(a.answer_id for a in answers),
        feedback_ids=(),
        arrays=target.to_wire(),
        content_hash=target.content_hash(),
    )
    await trainer.record(Records(targets=(record,)))


_SURE = {"self-teacher": 0.72, "teacher-large": 0.94}
"""How much of each expert's probability the alternatives have, where there are any."""
_WRONG = (" 0", "):\n", " <")
"""Where the student is wrong; elsewhere the alternatives are matters of taste."""


async def _ask(
    trainer: Any, dispatcher: Any, jobs: Jobs, expert: str, query: PrefixQuery
) -> WeightedAnswer:
    submission = PrefixSubmission(idempotency_key=f"k-{expert}", query=query)
    [posted] = await trainer.submit_logprobs(expert, [submission])
    taken, jobs.ids = tuple(jobs.ids), []
    request = ClaimRequest(dispatcher="d", job_ids=taken)
    claims = await dispatcher.call("POST", "/v1/internal/claims", body=request, reply=ClaimedJobs)
    for job in claims.jobs:
        results = tuple(
            ItemResult(answer_key=i.answer_key, prefix=_answer(expert, i.prefix)) for i in job.items
        )
        report = JobReport(job_id=job.job_id, fence=job.fence, results=results)
        body = ReportRequest(dispatcher="d", latency_ms=1.0, jobs=(report,))
        await dispatcher.call("POST", "/v1/internal/reports", body=body)
    [outcome] = await trainer.collect_logprobs([posted.ticket.id])
    return WeightedAnswer(outcome.ticket.answer_id, query, outcome.answer, 1.0)


def _answer(expert: str, query: PrefixQuery) -> PrefixAnswer:
    rows = [_row(expert, piece, alternatives) for piece, alternatives in PIECES]
    return build_answer(
        query,
        Distributions(
            ids_PK=np.array([[WORDS.index(w) for w, _ in row] for row in rows], np.int32),
            logprobs_PK=np.log(np.array([[p for _, p in row] for row in rows])).astype(np.float32),
            own_logprobs_P=np.log(
                np.array([dict(r)[piece] for r, (piece, _) in zip(rows, PIECES, strict=True)])
            ).astype(np.float32),
        ),
        expert=expert,
        expert_version="1",
        context_hash="cd" * 32,
    )


def _row(expert: str, piece: str, alternatives: Sequence[str]) -> list[tuple[str, float]]:
    """Four entries, best first."""
    others = _SURE[expert] * (1.0 if piece in _WRONG else 0.35) if alternatives else 0.02
    filler = [w for w in WORDS if w not in (piece, *alternatives)]
    named = [*alternatives, *filler][:3]
    share = [0.8, 0.13, 0.05]
    rows = [(piece, 1 - others)] + [(w, others * s) for w, s in zip(named, share, strict=True)]
    return sorted(rows, key=lambda one: -one[1])


# ---------------------------------------------------------------- the process


async def main(folder: Path, port: int, has_demo: bool) -> None:
    """Serves until it is killed."""
    settings = make_settings(folder)
    database = Database.open(f"sqlite+aiosqlite:///{folder}/store.db")
    jobs = Jobs()
    app = create_app(
        settings,
        database,
        LocalBlobs(settings.gateway.blobs),
        jobs,  # type: ignore[arg-type]
        connect=lambda url, key, addresses: SaysWhoItIs(url),
    )
    if not (folder / "people.json").exists():
        async with app.router.lifespan_context(app):
            await seed(app, jobs, settings, folder, has_demo)
    config = uvicorn.Config(app, port=port, log_level="warning", timeout_graceful_shutdown=2)
    await uvicorn.Server(config).serve()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), "demo" in sys.argv))
