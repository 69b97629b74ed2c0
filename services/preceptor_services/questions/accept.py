"""What results come to: answers to store, promises, failures. Pure.

An answer that stands is never replaced, and each job's results are taken whole or not at all.

Answers as rows. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from preceptor_clients.contract.errors import AnswerRefused, Invalid, PreceptorError, ProblemDetails
from preceptor_clients.contract.schemas import FeedbackAnswer, PrefixAnswer
from preceptor_services.jobs.messages import ItemResult
from preceptor_services.store.questions.answers import AnswerState


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of the questions that results are about."""

    states: Mapping[str, AnswerState]
    """Where each of them stands, by answer key."""
    visible_items: frozenset[str]
    """Those of the feedback items named in answers that exist."""
    pack_sha256: str | None
    """Where the arrays of the answers lie."""
    names: Callable[[str], Collection[str]]
    """What a service may call itself."""
    late_s: Callable[[str], float]
    """How long a service's promise may take."""
    cost: Callable[[str, int], float]
    """Price of an answer of a service about so many tokens, where the answer names none."""
    now: float

    def pending(self, job_ids: Iterable[str]) -> list[str]:
        """Questions of these jobs that were open before."""
        asked = set(job_ids)
        return [s.answer_key for s in self.states.values() if s.job_id in asked and s.is_pending]


@dataclass(kw_only=True)
class Acceptance:
    """What is to be written."""

    done: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """What each answer fills in of its row."""
    items: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    used: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    promised: dict[str, float] = field(default_factory=dict[str, float])
    """When each promise is given up."""
    failed: dict[str, ProblemDetails] = field(default_factory=dict[str, ProblemDetails])

    def fail(self, keys: Iterable[str], problem: ProblemDetails) -> None:
        """These fail, unless something has been said of them."""
        for key in keys:
            if key not in self.done and key not in self.promised:
                self.failed.setdefault(key, problem)

    def tally(self, states: Mapping[str, AnswerState]) -> Counter[tuple[str, str]]:
        """How many questions ended how, by service and outcome."""
        ends = (("done", self.done), ("failed", self.failed), ("promised", self.promised))
        return Counter((states[key].service, end) for end, keys in ends for key in keys)


def accept(
    acceptance: Acceptance, evidence: Evidence, service: str, results: Sequence[ItemResult]
) -> None:
    """Adds what one job of `service` came to.

    Raises:
        Invalid: a result is of no question of that service, or says nothing; nothing was added.
    """
    for place, result in enumerate(results):
        state = evidence.states.get(result.answer_key)
        if state is None or state.service != service:
            raise Invalid(
                "is no question of this job's service", field=f"results[{place}].answer_key"
            )
        if not (result.prefix or result.feedback or result.problem or result.accepted):
            raise Invalid("says nothing", field=f"results[{place}]")
    for result in results:
        state = evidence.states[result.answer_key]
        # The first answer stands, be it of an earlier report or of a neighbour in this one.
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
        refused = AnswerRefused("used_feedback", "names an item that nobody sent")
    if refused is not None:
        acceptance.failed[state.answer_key] = refused.problem()
        return
    assert evidence.pack_sha256 is not None, "a pack is written before its answers are judged"
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
    _done(acceptance, feedback_values(key, answer, cost, evidence.now))
    acceptance.items += item_rows(key, answer, evidence.now)


def _done(acceptance: Acceptance, values: dict[str, Any]) -> None:
    key = values["answer_key"]
    acceptance.done[key] = values
    # One question can be in two jobs of a call, asked again after it failed: the answer counts.
    acceptance.failed.pop(key, None)
    acceptance.promised.pop(key, None)


def _wrong_name(said: str, state: AnswerState, evidence: Evidence) -> PreceptorError | None:
    if said in evidence.names(state.service):
        return None
    return AnswerRefused("expert", f"{state.service} answered in the name of {said}")


def _version_changed(version: str, state: AnswerState) -> PreceptorError | None:
    if version == state.version:
        return None
    return AnswerRefused(
        "version", f"{state.service} answered as {version}, it was asked as {state.version}"
    )


def answer_values(
    answer_key: str, answer: PrefixAnswer, pack_sha256: str, cost: float, now: float
) -> dict[str, Any]:
    """What an expert's answer fills in of its row; `cost` is the price where it names none."""
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
    """Which items were in view, in order."""
    return [
        {"answer_key": answer_key, "ordinal": ordinal, "item_id": item}
        for ordinal, item in enumerate(answer.used_feedback)
    ]


def feedback_values(
    answer_key: str, answer: FeedbackAnswer, cost: float, now: float
) -> dict[str, Any]:
    """What a source's answer fills in of its row."""
    return {
        "answer_key": answer_key,
        "done_at": now,
        "expert": answer.source,
        "latency_ms": answer.latency_ms,
        "cost": cost if answer.cost is None else answer.cost,
    }


def item_rows(answer_key: str, answer: FeedbackAnswer, now: float) -> list[dict[str, Any]]:
    """The items of a source's answer.

    A source numbers its items within one answer. Here they get ids that are unique for good,
    because targets refer to them.
    """
    rows: list[dict[str, Any]] = []
    for ordinal, sent in enumerate(answer.items):
        item = sent.model_copy(update={"id": f"f-{answer_key[:24]}-{ordinal}"})
        rows.append(
            {
                "id": item.id,
                "answer_key": answer_key,
                "ordinal": ordinal,
                "content_hash": item.content_hash(),
                "document": item.model_dump(mode="json", exclude_none=True),
                "created_at": now,
            }
        )
    return rows
