"""Traces one token to its sources: expert answers, feedback, executor runs.

A token of a rollout without a target has no expert's answer behind it: it is shown with the credit
that the step gave it, the rollout's judgements, and the scores of its group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, cast

import numpy as np

from preceptor_clients.contract.arrays import MISSING
from preceptor_clients.contract.errors import Invalid, NotFound
from preceptor_clients.contract.schemas import (
    AnswerKind,
    FeedbackItem,
    ItemState,
    Judgement,
    Prompt,
    Trace,
    TraceSource,
)
from preceptor_services.corrections.results import provenance
from preceptor_services.kit.array_blobs import ArrayBlobs
from preceptor_services.provenance.listings import group_of
from preceptor_services.store.database import Connection, Database
from preceptor_services.store.provenance import feedback, listings, traces
from preceptor_services.store.provenance.feedback import ItemRow
from preceptor_services.store.provenance.traces import RolloutRow, SourceRow, TargetRow, UseRow

_GAINS_OF_OLDER_RECORDS: Final = frozenset(
    {"GRPO", "KDRL", "TRRD", "Hybrid", "OnPolicyDistillation"}
)
"""Objectives of runs whose record does not say yet what their advantages are."""


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
        _check(position, row.num_tokens)
        answered = await traces.sources(conn, target_id)
        used = await traces.uses(conn, target_id)
        seen = [await _feedback(conn, source.answer_id) for source in answered]
        gains = are_gains(await _config(conn, row.run))
    target = (await array_blobs.read(row.target_pack))[target_id]
    components = cast("list[dict[str, Any]]", target["components"])
    return Trace(
        target_id=target_id,
        sources=tuple(
            _source(source, component, items, position)
            for source, component, items in zip(answered, components, seen, strict=True)
        ),
        **await _token(array_blobs, row, position),
        **await _credit(array_blobs, used, row.rollout_id, position, gains=gains),
    )


async def trace_rollout(
    database: Database, array_blobs: ArrayBlobs, rollout_id: str, position: int
) -> Trace:
    """Traces a rollout at one response position: through its newest target, if it has any.

    Raises:
        NotFound: the rollout is unknown.
        Invalid: the response has no such position.
    """
    async with database.read() as conn:
        target_id = await traces.newest_target(conn, rollout_id)
    if target_id is not None:
        return await trace(database, array_blobs, target_id, position)
    async with database.read() as conn:
        row = await traces.find_rollout(conn, rollout_id)
        if row is None:
            raise NotFound(f"no rollout {rollout_id!r}", field="rollout")
        _check(position, row.num_tokens)
        used = await traces.rollout_uses(conn, rollout_id)
        items = (await feedback.listed(conn, [rollout_id])).get(rollout_id, [])
        group = await group_of(conn, row)
        gains = are_gains(await _config(conn, row.run))
    return Trace(
        sources=(),
        group_id=row.group_id,
        judgements=tuple(_judgement(item) for item in items),
        group=group,
        **await _token(array_blobs, row, position),
        **await _credit(array_blobs, used, rollout_id, position, gains=gains),
    )


def _check(position: int, num_tokens: int) -> None:
    if num_tokens == 0:
        raise Invalid("the response has no tokens", field="position")
    if not 0 <= position < num_tokens:
        raise Invalid(f"{position} is outside 0..{num_tokens - 1}", field="position")


async def _token(
    array_blobs: ArrayBlobs, row: TargetRow | RolloutRow, position: int
) -> dict[str, Any]:
    """The rollout and its token, as the student drew it."""
    rollout = (await array_blobs.read(row.rollout_pack))[row.rollout_id]
    return {
        "rollout_id": row.rollout_id,
        "run": row.run,
        "lineage": row.lineage,
        "step": row.step,
        "problem_id": row.problem_id,
        "prompt": Prompt.model_validate(rollout["prompt"]),
        "response_ids": rollout["response_ids"],
        "response_text": rollout["response_text"],
        "position": position,
        "token_id": int(rollout["response_ids"][position]),
        "student_weights": row.weights,
        "student_logprob": _told(rollout["behaviour_logprobs"][position]),
        "owned": bool(rollout["owned"][position]),
    }


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


async def _config(conn: Connection, run: str) -> Mapping[str, Any]:
    found = await listings.find_run(conn, run)
    return {} if found is None else found[0]["config"]


def are_gains(config: Mapping[str, Any]) -> bool:
    """Whether the objective of a run's record weighs tokens by gains, and not by costs."""
    objective = config.get("objective")
    told = cast("dict[str, Any]", objective) if isinstance(objective, dict) else {}
    return told.get("advantages") == "gains" or told.get("class") in _GAINS_OF_OLDER_RECORDS


async def _credit(
    array_blobs: ArrayBlobs, used: list[UseRow], rollout_id: str, position: int, *, gains: bool
) -> dict[str, Any]:
    """Every use, and cost and credit of the token in the last one."""
    uses = tuple(f"{use.lineage}/{use.step}" for use in used)
    if not used:
        return {"consumed_by": uses}
    arrays = (await array_blobs.read(used[-1].pack_sha256))[rollout_id]
    cost, advantage = (_told(arrays[name][position]) for name in ("costs", "advantages"))
    credit = advantage if gains or advantage is None else 0.0 - advantage
    return {"consumed_by": uses, "cost": cost, "advantage": advantage, "credit": credit}


def _judgement(row: ItemRow) -> Judgement:
    return Judgement(
        item=FeedbackItem.model_validate(row.document),
        state=cast("ItemState", row.state),
        state_reason=row.state_reason,
        superseded_by=row.superseded_by,
    )


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
