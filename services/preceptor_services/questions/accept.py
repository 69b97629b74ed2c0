"""Turns reported results into answers to store, promises and failures, as rows. Pure.

A stored answer is never replaced. The results of a job are accepted all together or not at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from preceptor_clients.contract.errors import AnswerRefused, Invalid, PreceptorError, ProblemDetails
from preceptor_clients.contract.schemas import FeedbackAnswer, FeedbackItem, PrefixAnswer
from preceptor_services.jobs.messages import ItemResult
from preceptor_services.store.questions.answers import AnswerState


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The stored facts about the questions of the results."""

    states: Mapping[str, AnswerState]
    """State of each question, by answer key."""
    visible_items: frozenset[str]
    """Those that count among the feedback items that answers name."""
    pack_sha256: str | None
    """SHA-256 of the blob with the answers' arrays."""
    names: Callable[[str], Collection[str]]
    """The allowed names of a service in its answers."""
    late_s: Callable[[str], float]
    """Seconds until a service's promise expires."""
    cost: Callable[[str, int], float]
    """Price of a service's answer by number of tokens, for answers without a price."""
    latency_ms: float | None = None
    """Time of the call, for answers that do not say how long they took."""
    now: float

    def pending(self, job_ids: Iterable[str]) -> list[str]:
        """Questions of these jobs that are still pending."""
        asked = set(job_ids)
        return [s.answer_key for s in self.states.values() if s.job_id in asked and s.is_pending]


@dataclass(kw_only=True)
class Acceptance:
    """The rows to write."""

    done: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """Columns of each answer's row, by answer key."""
    items: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    used: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    promised: dict[str, float] = field(default_factory=dict[str, float])
    """Time at which each promise expires."""
    failed: dict[str, ProblemDetails] = field(default_factory=dict[str, ProblemDetails])

    def fail(self, keys: Iterable[str], problem: ProblemDetails) -> None:
        """Fails these questions, except those that have an answer or a promise."""
        for key in keys:
            if key not in self.done and key not in self.promised:
                self.failed.setdefault(key, problem)

    def tally(self, states: Mapping[str, AnswerState]) -> Counter[tuple[str, str]]:
        """Number of questions by service and outcome."""
        ends = (("done", self.done), ("failed", self.failed), ("promised", self.promised))
        return Counter((states[key].service, end) for end, keys in ends for key in keys)


def accept(
    acceptance: Acceptance, evidence: Evidence, service: str, results: Sequence[ItemResult]
) -> None:
    """Adds the results of one job of `service`.

    Raises:
        Invalid: a result is not for a question of that service, or is empty; nothing was added.
    """
    for place, result in enumerate(results):
        state = evidence.states.get(result.answer_key)
        if state is None or state.service != service:
            raise Invalid(
                "is not the key of a question to this job's service",
                field=f"results[{place}].answer_key",
            )
        if not (result.prefix or result.feedback or result.problem or result.accepted):
            raise Invalid("says nothing", field=f"results[{place}]")
    for result in results:
        state = evidence.states[result.answer_key]
        # The first answer is kept, whether from an earlier report or from another job of this one.
        if state.state != "done" and result.answer_key not in acceptance.done:
            _accept_one(acceptance, evidence, state, result)


def _accept_one(
    acceptance: Acceptance, evidence: Evidence, state: AnswerState, result: ItemResult
) -> None:
    if result.prefix is not None:
        accept_prefix(acceptance, evidence, state, result.prefix)
    elif result.feedback is not None:
        _accept_feedback(acceptance, evidence, state, result.feedback)
    elif result.accepted:
        acceptance.promised[state.answer_key] = evidence.now + evidence.late_s(state.service)
    elif result.problem is not None:
        acceptance.failed[state.answer_key] = result.problem


def accept_prefix(
    acceptance: Acceptance, evidence: Evidence, state: AnswerState, answer: PrefixAnswer
) -> None:
    """Adds an expert's answer, or why it is refused."""
    refused = _version_changed(answer.expert_version, state)
    refused = refused or _wrong_name(answer.expert, state, evidence)
    if refused is None and not evidence.visible_items.issuperset(answer.used_feedback):
        refused = AnswerRefused("used_feedback", "names an item that does not exist or was retired")
    if refused is not None:
        acceptance.failed[state.answer_key] = refused.problem()
        return
    assert evidence.pack_sha256 is not None, "a pack is written before its answers are accepted"
    key, cost = state.answer_key, evidence.cost(state.service, len(answer.token_ids_P))
    _done(acceptance, answer_values(key, answer, evidence.pack_sha256, cost, evidence.now))
    acceptance.used += used_rows(key, answer)


def _accept_feedback(
    acceptance: Acceptance, evidence: Evidence, state: AnswerState, answer: FeedbackAnswer
) -> None:
    refused = _version_changed(answer.source_version, state)
    refused = refused or _wrong_name(answer.source, state, evidence)
    if refused is not None:
        acceptance.failed[state.answer_key] = refused.problem()
        return
    key, cost = state.answer_key, evidence.cost(state.service, 0)
    if answer.latency_ms is None:
        answer = answer.model_copy(update={"latency_ms": evidence.latency_ms})
    if answer.cost is None:
        answer = answer.model_copy(update={"cost": cost})
    _done(acceptance, feedback_values(key, answer, evidence.now))
    acceptance.items += item_rows(key, answer, evidence.now)


def _done(acceptance: Acceptance, values: dict[str, Any]) -> None:
    key = values["answer_key"]
    acceptance.done[key] = values
    # A question that failed and was asked again can be in two jobs of a call: the answer is kept.
    acceptance.failed.pop(key, None)
    acceptance.promised.pop(key, None)


def _wrong_name(said: str, state: AnswerState, evidence: Evidence) -> PreceptorError | None:
    if said in evidence.names(state.service):
        return None
    return AnswerRefused("expert", f"{state.service} answered with the name {said}")


def _version_changed(version: str, state: AnswerState) -> PreceptorError | None:
    if version == state.version:
        return None
    return AnswerRefused(
        "version", f"{state.service} answered with version {version}, expected {state.version}"
    )


def answer_values(
    answer_key: str, answer: PrefixAnswer, pack_sha256: str, cost: float, now: float
) -> dict[str, Any]:
    """The columns of an expert's answer; `cost` is used where the answer has no price."""
    return {
        "answer_key": answer_key,
        "done_at": now,
        "pack_sha256": pack_sha256,
        "expert": answer.expert,
        "answer_kind": answer.kind,
        "weights": answer.weights_before,
        "template_version": answer.template_version,
        "context_hash": answer.context_hash,
        "latency_ms": answer.latency_ms,
        "cost": cost if answer.cost is None else answer.cost,
    }


def used_rows(answer_key: str, answer: PrefixAnswer) -> list[dict[str, Any]]:
    """One row per feedback item in view, in order."""
    return [
        {"answer_key": answer_key, "ordinal": ordinal, "item_id": item}
        for ordinal, item in enumerate(answer.used_feedback)
    ]


def feedback_values(answer_key: str, answer: FeedbackAnswer, now: float) -> dict[str, Any]:
    """The columns of a source's answer."""
    return {
        "answer_key": answer_key,
        "done_at": now,
        "expert": answer.source,
        "latency_ms": answer.latency_ms,
        "cost": answer.cost,
    }


def item_rows(answer_key: str, answer: FeedbackAnswer, now: float) -> list[dict[str, Any]]:
    """The items of a source's answer.

    Item ids of a source are unique within one answer only. Here they get globally unique ids,
    because targets refer to them. Items without a cost of their own share the answer's.
    """
    rows: list[dict[str, Any]] = []
    for ordinal, sent in enumerate(answer.items):
        item = sent.model_copy(update={"id": f"f-{answer_key[:24]}-{ordinal}"})
        row = item_row(item, now) | {"answer_key": answer_key, "ordinal": ordinal}
        row["latency_ms"] = answer.latency_ms
        if item.cost is None and answer.cost is not None:
            row["cost"] = answer.cost / len(answer.items)
        rows.append(row)
    return rows


def item_row(item: FeedbackItem, now: float) -> dict[str, Any]:
    """The row of a feedback item, as that of no source's answer."""
    return {
        "id": item.id,
        "answer_key": None,
        "ordinal": 0,
        "content_hash": item.content_hash(),
        "document": item.model_dump(mode="json", exclude_none=True),
        "created_at": now,
        "source": item.source,
        "version": item.version,
        "error": item.error,
        "latency_ms": None,
        "cost": item.cost,
        "rollout_id": None,
        "state": "standing",
    }
