"""Writes the test vectors of the wire contract: `python tests/contract/make_vectors.py`.

Each message of `messages()` stands in `vectors/` as NAME.json and NAME.frame; the two say the same.
`rejected.json` lists frames, in hexadecimal, that a decoder must refuse. The vectors are committed;
if running this changes a file, the wire format has changed.
"""

import json
import struct
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import BaseModel

from preceptor_clients.contract import wire
from preceptor_clients.contract.arrays import MISSING
from preceptor_clients.contract.errors import ContextTooLong, DeadlineExceeded
from preceptor_clients.contract.listings import (
    ItemPlace,
    LineagePlace,
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
from preceptor_clients.contract.schemas import (
    Accepted,
    Accounting,
    Arrival,
    Arrivals,
    Capabilities,
    CollectRequest,
    Credit,
    Credits,
    Episode,
    FeedbackAnswer,
    FeedbackCall,
    FeedbackItem,
    FeedbackOutcome,
    FeedbackOutcomes,
    FeedbackQuery,
    FeedbackRecord,
    FeedbackReply,
    FeedbackRequest,
    FeedbackResult,
    FeedbackSubmission,
    GroupAttempt,
    Judgement,
    LineageRecord,
    LogprobsCall,
    LogprobsOutcomes,
    LogprobsReply,
    LogprobsRequest,
    Message,
    PrefixAnswer,
    PrefixOutcome,
    PrefixQuery,
    PrefixResult,
    PrefixSubmission,
    Prompt,
    Records,
    RolloutRecord,
    RunRecord,
    ServiceInfo,
    ServiceLimits,
    Services,
    ServiceStatus,
    StepRecord,
    TargetRecord,
    Ticket,
    Trace,
    TraceSource,
    WantedWeights,
    WeightManifest,
    WeightsOffer,
)
from preceptor_clients.sdk.answers import Distributions, build_answer
from preceptor_clients.targets.builder import BUILDER_VERSION, WeightedAnswer, build_target

VECTORS: Final = Path(__file__).parent / "vectors"
FINGERPRINT: Final = "ab" * 32
SHA: Final = "0123456789abcdef" * 4


def _ids(*ids: int) -> np.ndarray:
    return np.array(ids, np.int32)


def _minimal_query() -> PrefixQuery:
    return PrefixQuery(
        prompt=Prompt(ids=_ids(1, 2)), response_ids=_ids(3, 4), vocab_fingerprint=FINGERPRINT
    )


def _item() -> FeedbackItem:
    return FeedbackItem(
        id="f-1",
        kind="execution",
        score=0.5,
        text="[3,1]->[1,3] not [3,1]",
        source="executor",
        version="1",
        details={"isolation": "process", "$array": 0, "nothing": None, "nested": [1.5, None]},
    )


def _full_query() -> PrefixQuery:
    return PrefixQuery(
        prompt=Prompt(messages=(Message(role="user", content="Größe? 😀"),), ids=_ids(1, 2)),
        response_ids=_ids(3, 4, 5, 6),
        owned=np.array([True, True, False, True]),
        positions=((0, 2), (3, 4)),
        feedback=(_item(),),
        vocab_fingerprint=FINGERPRINT,
        top_k=2,
        candidate_ids=np.array([[7, 8], [9, -1], [3, 4]], np.int32),
        weights=WantedWeights(mode="exact", version="run/main/3"),
        group_id="g-1",
        draw=1,
        priority=2,
        timeout_ms=1500,
        rollout_id="r-1",
    )


def _distributions(query: PrefixQuery) -> Distributions:
    """Fractions of 10 over a vocabulary of 10 tokens, shifted from row to row."""
    P = query.num_positions
    probs = np.array([4, 3, 1, 1, 0.5, 0.2, 0.1, 0.1, 0.05, 0.05]) / 10
    table = np.log(np.stack([np.roll(probs, row) for row in range(P)]))
    ids = np.argsort(-table, axis=1, kind="stable")[:, : query.top_k]
    rows = np.arange(P)[:, None]
    candidates = query.candidate_ids
    return Distributions(
        ids_PK=ids,
        logprobs_PK=table[rows, ids],
        own_logprobs_P=table[rows[:, 0], query.response_ids[query.position_ids()]],
        candidate_logprobs_PC=None
        if candidates is None
        else table[rows, np.maximum(candidates, 0)],
    )


def _answer(query: PrefixQuery, *, exact: bool = False, masked: bool = False) -> PrefixAnswer:
    mask = np.ones(query.num_positions, np.bool_)
    mask[0] = not masked
    return build_answer(
        query,
        _distributions(query),
        expert="self-teacher",
        expert_version="2",
        mask_P=mask,
        exact=exact,
        weights_before="run/main/3",
        weights_after="run/main/3",
        template_version="1",
        context_hash=SHA,
        used_feedback=tuple(item.id for item in query.feedback),
        latency_ms=12.5,
    )


def _point(query: PrefixQuery) -> PrefixAnswer:
    """A person's tokens: one entry per row, nothing known of the student's own token."""
    distributions = Distributions(
        ids_PK=np.array([[4], [5]]), logprobs_PK=np.zeros((2, 1)), own_logprobs_P=None
    )
    return build_answer(query, distributions, expert="people", expert_version="1", kind="point")


def _empirical(query: PrefixQuery) -> PrefixAnswer:
    """Four draws at the first position, which had one chance in two; none at the second."""
    distributions = Distributions(
        ids_PK=np.array([[4, 5], [-1, -1]]),
        logprobs_PK=np.log([[0.75, 0.25], [1.0, 1.0]]),
        own_logprobs_P=None,
    )
    return build_answer(
        query,
        distributions,
        expert="sample-only",
        expert_version="1",
        kind="empirical",
        mask_P=np.array([True, False]),
        exact=True,
        num_draws=4,
        inclusion_P=np.array([0.5, 0.25], np.float32),
    )


def _feedback_query() -> FeedbackQuery:
    return FeedbackQuery(
        rollout_id="r-1",
        prompt=Prompt(messages=(Message(role="user", content="sort"),)),
        response_ids=_ids(3, 4),
        response_text="sorted(x)",
        finish_reason="stop",
        payload_sha256=SHA,
        payload={"entry": "x", "cases": [[3, 1], None]},
    )


def _episode() -> Episode:
    return Episode(
        turns=(
            Message(role="assistant", content="look"),
            Message(role="tool", content="a wall"),
            Message(role="assistant", content="back"),
        ),
        environment="maze 3",
        reward=0.5,
        text="hit a wall",
        details={"steps": 2},
    )


def _feedback_answer() -> FeedbackAnswer:
    failed = FeedbackItem(
        id="f-2", kind="judge", error="the judge timed out", source="judge", version="1"
    )
    return FeedbackAnswer(items=(_item(), failed), source="executor", source_version="1", cost=0.25)


def _records() -> Records:
    query = _full_query()
    rollout = RolloutRecord(
        rollout_id="r-1",
        run="run",
        lineage="main",
        step=3,
        problem_id="p-1",
        group_id="g-1",
        prompt=query.prompt,
        response_ids=query.response_ids,
        response_text="sorted(x)",
        behaviour_logprobs=np.array([-0.5, -1.25, 0.0, -2.0], np.float32),
        owned=np.array([True, True, False, True]),
        weights="run/main/3",
        finish_reason="stop",
        sampling={"temperature": 1.0, "seed": 7},
    )
    target = build_target("r-1", rollout.owned, [WeightedAnswer("a-1", query, _answer(query), 1.0)])
    row = TargetRecord(
        target_id=target.id,
        rollout_id="r-1",
        builder_version=BUILDER_VERSION,
        settings={"weights": {"self-teacher": 1.0}},
        answer_ids=("a-1",),
        feedback_ids=("f-1",),
        arrays=target.to_wire(),
        content_hash=target.content_hash(),
    )
    judged = FeedbackRecord(rollout_id="r-1", item=_item())
    return Records(rollouts=(rollout,), targets=(row,), feedback=(judged,))


def _step() -> StepRecord:
    credit = Credit(
        rollout_id="r-1",
        target_id="t-1",
        costs=np.array([0.5, MISSING], np.float32),
        advantages=np.array([0.25, 0.0], np.float32),
        logprobs=np.array([-1.0, -0.125], np.float32),
    )
    return StepRecord(
        run="run",
        lineage="main",
        step=3,
        loss=1.5,
        metrics={"entropy": 0.75},
        consumed=(credit,),
        weights_before="run/main/3",
        weights_after="run/main/4",
    )


def _trace() -> Trace:
    source = TraceSource(
        answer_id="a-1",
        expert="self-teacher",
        expert_version="2",
        weights="run/main/3",
        template_version="1",
        context_hash=SHA,
        kind="topk",
        weight=1.0,
        entries=((7, 0.75), (8, 0.125)),
        tail=0.125,
        feedback=(_item(),),
    )
    return Trace(
        target_id="t-1",
        rollout_id="r-1",
        run="run",
        lineage="main",
        step=3,
        problem_id="p-1",
        prompt=Prompt(messages=(Message(role="user", content="go"),)),
        response_ids=np.array([3, 4], np.int32),
        response_text="on",
        position=1,
        token_id=4,
        student_weights="run/main/3",
        student_logprob=-1.25,
        owned=True,
        consumed_by=("main/3",),
        cost=0.5,
        advantage=None,
        sources=(source,),
    )


def _rollout_trace() -> Trace:
    retired = Judgement(item=_item(), state="retired", state_reason="the tests were wrong")
    group = (
        GroupAttempt(rollout_id="r-1", score=0.5, solved=True),
        GroupAttempt(rollout_id="r-2"),
    )
    without_target: dict[str, Any] = {"target_id": None, "cost": None, "sources": ()}
    return _trace().model_copy(
        update=without_target
        | {
            "advantage": 0.75,
            "credit": 0.75,
            "group_id": "g-1",
            "judgements": (retired,),
            "group": group,
        }
    )


def _listings() -> dict[str, BaseModel]:
    place = {"lineage": "main", "step": 3, "problem_id": "p-1", "num_tokens": 4}
    life = LineagePlace(lineage="b", parent="main", from_step=4, created_at=2.0)
    rollout = RolloutPlace(
        id="r-1",
        group_id="g-1",
        weights="run/main/3",
        finish_reason="stop",
        response_text="on",
        score=1.0,
        solved=True,
        feedback=(
            ItemPlace(id="f-1", source="tests", score=1.0),
            ItemPlace(
                id="f-2", source="style", score=0.5, state="retired", state_reason="too harsh"
            ),
        ),
        **place,
    )
    return {
        "run_page": RunPage(
            runs=(
                RunPlace(
                    run="run", seed=3, created_at=1.5, lineages=2, steps=8, rollouts=64, targets=60
                ),
            )
        ),
        "run_details": RunDetails(
            run="run",
            config={"steps": 8},
            seed=3,
            versions={"numpy": "2"},
            created_at=1.5,
            lineages=(life,),
        ),
        "rollout_page": RolloutPage(rollouts=(rollout,), after="r-1"),
        "quarantine": Quarantine(
            targets=(QuarantinedTarget(id="t-1", rollout_id="r-1"),), after="t-1"
        ),
        "target_page": TargetPage(
            targets=(TargetPlace(id="t-1", rollout_id="r-1", **place),), after="t-1"
        ),
    }


def messages() -> dict[str, BaseModel]:
    """One example, at least, of every message."""
    minimal, full, ask = _minimal_query(), _full_query(), _feedback_query()
    ticket = Ticket(id="q-1", state="done", answer_key=SHA, answer_id="a-1", cached=True)
    queued = Ticket(id="q-2", state="queued", answer_key=SHA)
    late = DeadlineExceeded("no answer within 60 s").problem()
    too_long = ContextTooLong("600 tokens, the expert takes 512", field="response_ids").problem()
    info = ServiceInfo(
        name="self-teacher",
        role="expert",
        version="2",
        capabilities=Capabilities(
            kinds=("topk",),
            max_top_k=64,
            candidates=True,
            weights=True,
            vocab_fingerprint=FINGERPRINT,
            vocab_size=10,
            max_context=512,
        ),
        limits=ServiceLimits(max_batch=8, max_batch_tokens=4096, max_concurrency=2),
        frames=True,
    )
    manifest = WeightManifest(
        version="run/main/4",
        parent="run/main/3",
        uri="file:///weights/run/main/4",
        files={"model.safetensors": SHA},
        vocab_fingerprint=FINGERPRINT,
    )
    status = ServiceStatus(
        name="executor", role="source", state="unreachable", detail="connection refused"
    )
    known = ServiceStatus(name="self-teacher", role="expert", state="ready", info=info)
    arrival = Arrival(ticket="q-1", answer_key=SHA, idempotency_key="k-1", answer_id="a-1")
    results = (
        PrefixResult(answer=_answer(full)),
        PrefixResult(problem=too_long),
        PrefixResult(accepted=True),
    )
    return {
        "logprobs_call": LogprobsCall(queries=(minimal, full), answer_keys=(SHA, FINGERPRINT)),
        "logprobs_call_empty": LogprobsCall(queries=()),
        "logprobs_call_entropy": LogprobsCall(
            queries=(minimal.model_copy(update={"entropy_P": np.array([0.5, 2.25], np.float32)}),),
        ),
        "logprobs_reply": LogprobsReply(results=results),
        "answer_exact": _answer(full, exact=True),
        "answer_masked": _answer(full, masked=True),
        "answer_point": _point(minimal),
        "answer_empirical": _empirical(minimal),
        "feedback_call": FeedbackCall(queries=(ask,)),
        "feedback_call_episode": FeedbackCall(
            queries=(ask.model_copy(update={"episode": _episode()}),)
        ),
        "feedback_reply": FeedbackReply(
            results=(FeedbackResult(answer=_feedback_answer()), FeedbackResult(problem=late))
        ),
        "info": info,
        "services": Services(services=(status, known)),
        "weights_offer": WeightsOffer(manifests=(manifest,)),
        "logprobs_request": LogprobsRequest(
            expert="self-teacher",
            submissions=(PrefixSubmission(idempotency_key="k-1", query=minimal),),
            run="run",
            batching="group",
            wait_ms=30_000,
        ),
        "feedback_request": FeedbackRequest(
            source="executor", submissions=(FeedbackSubmission(idempotency_key="k-2", query=ask),)
        ),
        "collect_request": CollectRequest(tickets=("q-1", "q-2"), wait_ms=1000),
        "logprobs_outcomes": LogprobsOutcomes(
            outcomes=(
                PrefixOutcome(ticket=ticket, answer=_answer(full)),
                PrefixOutcome(ticket=queued, problem=late),
            )
        ),
        "feedback_outcomes": FeedbackOutcomes(
            outcomes=(FeedbackOutcome(ticket=ticket, answer=_feedback_answer()),)
        ),
        "arrivals": Arrivals(cursor=12, arrivals=(arrival,)),
        "run_record": RunRecord(run="run", config={"steps": 8}, seed=3, versions={"numpy": "2"}),
        "lineage_record": LineageRecord(
            run="run",
            lineage="b",
            parent="main",
            from_step=4,
            settings={"steps": 12},
            versions={"numpy": "2"},
        ),
        "records": _records(),
        "credits": Credits(consumed=_step().consumed),
        "step_record": _step(),
        "accepted": Accepted(new=2),
        "trace": _trace(),
        "rollout_trace": _rollout_trace(),
        **_listings(),
        "accounting": Accounting(
            run="run",
            lineages=0,
            steps=0,
            superseded_steps=0,
            rollouts=0,
            targets=0,
            consumed=0,
            consumed_twice=0,
        ),
    }


def _frame(header: bytes, body: bytes = b"", body_len: int | None = None) -> bytes:
    header += b" " * (-(20 + len(header)) % 8)
    length = len(body) if body_len is None else body_len
    return struct.pack("<4sB3xIQ", b"PCF1", 0, len(header), length) + header + body


def rejected() -> dict[str, bytes]:
    """Frames that a decoder must refuse, each for one reason."""
    one = b'{"message":{"$array":0},"arrays":[["%s",%s]]}'
    return {
        "another magic": b"PCF2" + _frame(b'{"message":1,"arrays":[]}')[4:],
        "cut off": _frame(b'{"message":1,"arrays":[]}')[:-1],
        "body length that lies": _frame(one % (b"i4", b"[2]"), bytes(8), 16),
        "shape that lies": _frame(one % (b"i4", b"[1099511627776]"), bytes(8)),
        "unknown element type": _frame(one % (b"f8", b"[1]"), bytes(8)),
        "bool of 7": _frame(one % (b"b1", b"[1]"), b"\x07" + bytes(7)),
        "padding that is not zero": _frame(one % (b"b1", b"[1]"), b"\x01" * 8),
        "NaN in an array": _frame(one % (b"f4", b"[1]"), struct.pack("<f4x", float("nan"))),
        "NaN in the header": _frame(b'{"message":NaN,"arrays":[]}'),
        "a number beyond all floats": _frame(b'{"message":1e999,"arrays":[]}'),
        "an array referenced twice": _frame(
            b'{"message":[{"$array":0},{"$array":0}],"arrays":[["i4",[2]]]}', bytes(8)
        ),
        "an array never referenced": _frame(b'{"message":1,"arrays":[["i4",[2]]]}', bytes(8)),
        "a reference to no array": _frame(b'{"message":{"$array":0},"arrays":[]}'),
        "a reserved key": _frame(b'{"message":{"$other":0},"arrays":[]}'),
    }


def main() -> None:
    """Writes every vector."""
    VECTORS.mkdir(exist_ok=True)
    for name, message in messages().items():
        (VECTORS / f"{name}.frame").write_bytes(wire.render(message, wire.FRAME))
        (VECTORS / f"{name}.json").write_bytes(wire.render(message, wire.JSON))
    listed = {name: data.hex() for name, data in rejected().items()}
    (VECTORS / "rejected.json").write_text(json.dumps(listed, indent=1) + "\n")


if __name__ == "__main__":
    main()
