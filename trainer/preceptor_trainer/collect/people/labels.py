"""Corrections as rollouts with targets: the same shapes as the student's own, marked as given.

One correction can give three things: labels on the student's own sequence, labels on the corrected
text as a sequence of its own, and the corrected text as feedback for the other experts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from preceptor_clients.contract.arrays import MISSING
from preceptor_clients.contract.corrections import Result
from preceptor_clients.contract.schemas import (
    FeedbackItem,
    PrefixAnswer,
    PrefixOutcome,
    PrefixQuery,
)
from preceptor_clients.targets.builder import Target, TargetComponent, WeightedAnswer, build_target
from preceptor_clients.targets.edits import compile_edit
from preceptor_clients.targets.spelling import TokenizerSpelling
from preceptor_trainer.collect.context import InView
from preceptor_trainer.collect.labelling import Labelled
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.sampling.sampler import Generation
from preceptor_trainer.tasks.task import NOT_JUDGED, RecordedProblem

GROUPS_FROM = 1_000_000
"""First group number of corrected rollouts, so that they share no baseline with others."""
_FORCED_FROM = 2_000_000
_TIMEOUT_MS = 3_600_000


class Answered(NamedTuple):
    """One answer of the people's expert, with its id and query."""

    answer_id: str
    query: PrefixQuery
    answer: PrefixAnswer

    @classmethod
    def of(cls, outcome: PrefixOutcome, query: PrefixQuery) -> Answered | None:
        """The outcome's answer, if it has one."""
        if outcome.answer is None or outcome.ticket is None or outcome.ticket.answer_id is None:
            return None
        return cls(outcome.ticket.answer_id, query, outcome.answer)


def base_query(row: Labelled, vocab_fingerprint: str) -> PrefixQuery:
    """The query about the student's own response; it has no deadline except that of people."""
    rollout = row.attempt.rollout
    return PrefixQuery(
        prompt=rollout.prompt,
        response_ids=np.asarray(rollout.response_ids, np.int32),
        owned=np.asarray(rollout.owned, np.bool_),
        vocab_fingerprint=vocab_fingerprint,
        timeout_ms=_TIMEOUT_MS,
        rollout_id=rollout.rollout_id,
    )


def takeover_query(
    result: Result, spelling: TokenizerSpelling, vocab_fingerprint: str
) -> PrefixQuery | None:
    """The query about the corrected response; None where nothing was changed."""
    if result.text is None or result.response_ids is None:
        return None
    edit = compile_edit(spelling, np.asarray(result.response_ids), result.text, result.edits)
    if not edit.spans or not len(edit.takeover_ids):
        return None
    return PrefixQuery(
        prompt=result.prompt,
        response_ids=edit.takeover_ids,
        vocab_fingerprint=vocab_fingerprint,
        rollout_id=f"{result.rollout_id}~{result.version}",
    )


def labelled_by_people(
    result: Result,
    answered: Answered,
    rollout_id: str,
    number: int,
    *,
    step: int,
    weights: str,
    weight: float,
    accepted_weight: float,
) -> Labelled:
    """One use of a person's labels, on the queried sequence."""
    ids = answered.query.response_ids
    takeover = not np.array_equal(ids, np.asarray(result.response_ids or (), ids.dtype))
    text = (result.text if takeover else result.response_text) or ""
    rollout = _rollout(result, ids, text, rollout_id, number, step=step, weights=weights)
    weighted = WeightedAnswer(answered.answer_id, answered.query, answered.answer, 1.0)
    target = build_target(rollout_id, rollout.owned, [weighted])
    return Labelled(
        attempt=Attempt(rollout=rollout, items=(), task=NOT_JUDGED),
        in_view=InView((), frozenset()),
        target=scaled(target, ids, weight, accepted_weight, takeover=takeover),
    )


def repeated(own: Answered, takeover: Answered) -> bool:
    """Whether a take-over has every label of the student's own sequence, in the same state.

    The two have the same states as long as their ids agree. An edit of one place has its label in
    both; only further departures or accepted tokens are labels of the own sequence alone.
    """
    own_ids, ids = own.query.response_ids, takeover.query.response_ids
    length = min(len(own_ids), len(ids))
    apart = np.flatnonzero(own_ids[:length] != ids[:length])
    shared = int(apart[0]) if apart.size else length
    theirs = _labels(takeover)
    return all(
        place <= shared and label == theirs.get(place) for place, label in _labels(own).items()
    )


def _labels(answered: Answered) -> dict[int, int]:
    """The token that a person wants, by response position."""
    places, answer = answered.query.position_ids(), answered.answer
    return {
        int(place): int(answer.ids_PK[p, 0]) for p, place in enumerate(places) if answer.mask_P[p]
    }


def scaled(
    target: Target, ids: np.ndarray, weight: float, accepted_weight: float, *, takeover: bool
) -> Target:
    """`target` with the weights that people's labels have in this run.

    On the student's own sequence a label equal to the student's token is an accepted token. On a
    take-over every label is a token that the person wrote.
    """

    def rescaled(component: TargetComponent) -> TargetComponent:
        same_T = component.ids_TK[:, 0] == ids
        factor_T = np.where(same_T & (not takeover), weight * accepted_weight, weight)
        return replace(component, weight_T=(component.weight_T * factor_T).astype(np.float32))

    return replace(target, components=tuple(rescaled(c) for c in target.components))


def corrected_attempt(
    result: Result, rollout_id: str, number: int, *, step: int, weights: str
) -> Attempt:
    """The student's own sequence with the correction as its feedback, for the other experts."""
    assert result.text is not None, "only edits become feedback"
    assert result.response_ids is not None, "the caller keeps only what has ids"
    ids = np.asarray(result.response_ids, np.int32)
    rollout = _rollout(
        result, ids, result.response_text, rollout_id, number, step=step, weights=weights
    )
    return Attempt(rollout=rollout, items=(correction_feedback(result),), task=NOT_JUDGED)


def forced_prefix(result: Result, spelling: TokenizerSpelling) -> list[int]:
    """Ids of the correction up to and with its first change."""
    assert result.text is not None, "only edits have a prefix to roll out from"
    assert result.response_ids is not None, "the caller keeps only what has ids"
    edit = compile_edit(spelling, np.asarray(result.response_ids), result.text, result.edits)
    start = [int(token) for token in edit.forced_prefix()]
    # After a change of the end nothing can be sampled, so the end token is left out and sampled.
    return start[:-1] if start and start[-1] in spelling.end_ids else start


def rolled_on(
    result: Result,
    generation: Generation,
    text: str,
    rollout_id: str,
    number: int,
    *,
    step: int,
    weights: str,
) -> Rollout:
    """A rollout whose first tokens were given: no target and no score on them.

    It is marked as given, so it trains by the local term, and only on the student's own tokens.
    """
    ids = generation.response_ids
    number += _FORCED_FROM - GROUPS_FROM
    rollout = _rollout(result, ids, text, rollout_id, number, step=step, weights=weights)
    return replace(
        rollout,
        payload_sha256=str(result.details.get("payload_sha256", "")),
        # A sampler in another process does not score what it is given.
        behaviour_logprobs=np.where(np.isnan(generation.logprobs), MISSING, generation.logprobs),
        owned=np.arange(len(ids)) >= generation.num_forced,
        finish_reason=generation.finish_reason,
    )


def prompt_ids(result: Result) -> list[int]:
    """The ids that the student saw."""
    ids = result.prompt.ids
    assert ids is not None, "the queue stores the ids that the student saw"
    return [int(i) for i in ids]


def correction_feedback(result: Result) -> FeedbackItem:
    """The corrected text as a feedback item for experts."""
    return FeedbackItem(
        id=f"correction-{result.version}",
        kind="correction",
        text=result.text,
        source="people",
        version=str(result.version),
        details={"item": result.item, "person": result.person, "reviewer": result.reviewer},
    )


def _rollout(
    result: Result,
    ids: np.ndarray,
    text: str,
    rollout_id: str,
    number: int,
    *,
    step: int,
    weights: str,
) -> Rollout:
    messages = [{"role": m.role, "content": m.content} for m in result.prompt.messages]
    return Rollout(
        rollout_id=rollout_id,
        group_id=f"people/{result.rollout_id}",
        group=GROUPS_FROM + number,
        problem=RecordedProblem(id=result.problem_id or result.item, messages=messages),
        payload_sha256="",
        prompt_ids=prompt_ids(result),
        response_ids=ids,
        response_text=text,
        behaviour_logprobs=np.full(len(ids), MISSING, np.float32),
        owned=np.ones(len(ids), np.bool_),
        finish_reason="stop",
        step=step,
        weights=weights,
        given=True,
    )
