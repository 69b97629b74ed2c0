"""Traces one token of a target to its sources: expert answers, feedback, executor runs."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np

from preceptor_clients.contract.arrays import MISSING
from preceptor_clients.contract.errors import Invalid, NotFound
from preceptor_clients.contract.schemas import (
    AnswerKind,
    FeedbackItem,
    Prompt,
    Trace,
    TraceSource,
)
from preceptor_services.corrections.results import provenance
from preceptor_services.kit.array_blobs import ArrayBlobs
from preceptor_services.store.database import Connection, Database
from preceptor_services.store.provenance import feedback, traces
from preceptor_services.store.provenance.traces import SourceRow, UseRow


async def trace(
    database: Database, array_blobs: ArrayBlobs, target_id: str, position: int
) -> Trace:
    """Traces the target at one response position.

    Raises:
        NotFound: the target is unknown.
        Invalid: the response has no such position.
    """
    async with database.read() as conn:
        row = await traces.find_target(conn, target_id)
        if row is None:
            raise NotFound(f"no target {target_id!r}", field="target")
        if not 0 <= position < row.num_tokens:
            raise Invalid(f"{position} is outside 0..{row.num_tokens - 1}", field="position")
        answered = await traces.sources(conn, target_id)
        used = await traces.uses(conn, target_id)
        seen = [await _feedback(conn, source.answer_id) for source in answered]
    rollout = (await array_blobs.read(row.rollout_pack))[row.rollout_id]
    target = (await array_blobs.read(row.target_pack))[target_id]
    components = cast("list[dict[str, Any]]", target["components"])
    credit = await _credit(array_blobs, used, row.rollout_id)
    return Trace(
        target_id=target_id,
        rollout_id=row.rollout_id,
        run=row.run,
        lineage=row.lineage,
        step=row.step,
        problem_id=row.problem_id,
        prompt=Prompt.model_validate(rollout["prompt"]),
        response_ids=rollout["response_ids"],
        response_text=rollout["response_text"],
        position=position,
        token_id=int(rollout["response_ids"][position]),
        student_weights=row.weights,
        student_logprob=_told(rollout["behaviour_logprobs"][position]),
        owned=bool(rollout["owned"][position]),
        consumed_by=tuple(f"{use.lineage}/{use.step}" for use in used),
        cost=_known(credit, "costs", position),
        advantage=_known(credit, "advantages", position),
        sources=tuple(
            _source(source, component, items, position)
            for source, component, items in zip(answered, components, seen, strict=True)
        ),
    )


async def _feedback(conn: Connection, answer_id: str) -> tuple[FeedbackItem, ...]:
    """Items in view of the expert; the details of each name the answer of its source."""
    items: list[FeedbackItem] = []
    for row, source_answer in await feedback.used_by(conn, answer_id):
        item = FeedbackItem.model_validate(row.document)
        facts = {} if source_answer is None else {"answer_id": source_answer}
        if row.state != "standing":
            facts["state"] = f"{row.state}: {row.state_reason}"
        items.append(item.model_copy(update={"details": item.details | facts}))
    correction = await provenance(conn, answer_id)
    return (*items, correction) if correction is not None else tuple(items)


async def _credit(
    array_blobs: ArrayBlobs, used: list[UseRow], rollout_id: str
) -> dict[str, Any] | None:
    """Costs and credit of the last step that consumed the rollout."""
    if not used:
        return None
    return (await array_blobs.read(used[-1].pack_sha256))[rollout_id]


def _known(credit: dict[str, Any] | None, name: str, position: int) -> float | None:
    return None if credit is None else _told(credit[name][position])


def _told(value: float) -> float | None:
    """None in place of the value that marks a missing number."""
    number = float(value)
    return number if math.isfinite(number) and number > MISSING / 2 else None


def _source(
    row: SourceRow, component: dict[str, Any], items: tuple[FeedbackItem, ...], position: int
) -> TraceSource:
    ids = cast("np.ndarray", component["ids_TK"][position])
    probs = cast("np.ndarray", component["probs_TK"][position])
    inclusion_T = cast("np.ndarray | None", component.get("inclusion_T"))
    weight = float(component["weight_T"][position])
    return TraceSource(
        answer_id=row.answer_id,
        expert=row.expert,
        expert_version=row.version,
        weights=row.weights,
        template_version=row.template_version,
        context_hash=row.context_hash,
        kind=cast("AnswerKind", row.answer_kind),
        weight=weight,
        inclusion=None if inclusion_T is None else float(inclusion_T[position]),
        entries=tuple((int(i), float(p)) for i, p in zip(ids, probs, strict=True) if i >= 0)
        if weight > 0
        else (),
        tail=float(component["tail_T"][position]) if weight > 0 else None,
        own_logprob=_told(component["own_logprobs_T"][position])
        if component["own_mask_T"][position]
        else None,
        feedback=items,
    )
