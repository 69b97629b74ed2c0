"""From experts' answers to targets: pure, numpy only.

A target belongs to one rollout and keeps one component per answer; components are never merged into
one list, because cross-entropy is linear in the target: the loss is their weighted sum. At each
position the weights of the components that have an opinion are scaled to sum to 1. Where none has
an opinion, all weights are 0 and the position is unlabelled.

Example:
    target = build_target(rollout_id, owned, [WeightedAnswer(answer_id, query, answer, 1.0)])

Dimensions: T positions of the response, P positions that were asked, E experts, K entries of an
answer, C candidate ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np

from preceptor_clients.contract.arrays import MISSING
from preceptor_clients.contract.fingerprint import content_hash
from preceptor_clients.contract.schemas import AnswerKind, PrefixAnswer, PrefixQuery

BUILDER_VERSION: Final = "targets-1"


class WeightedAnswer(NamedTuple):
    """One answer and the weight its expert has in this run."""

    answer_id: str
    query: PrefixQuery
    answer: PrefixAnswer
    weight: float | np.ndarray
    """One weight for all positions, or `[P]` one per queried position; 0 leaves a position to the
    other experts."""

    @property
    def weight_P(self) -> np.ndarray:
        """`[P]` float64, 0 where there is no opinion."""
        return self.weight * self.answer.mask_P.astype(np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetComponent:
    """One expert's opinion, dense over the `T` positions of a response."""

    answer_id: str
    expert: str
    kind: AnswerKind
    ids_TK: np.ndarray
    """int32, -1 in empty cells."""
    probs_TK: np.ndarray
    """float32, 0 in empty cells; as decoded, not renormalised."""
    tail_T: np.ndarray
    weight_T: np.ndarray
    """float32; 0 where there is no opinion."""
    own_logprobs_T: np.ndarray
    own_mask_T: np.ndarray
    candidate_logprobs_TC: np.ndarray
    candidate_mask_TC: np.ndarray
    inclusion_T: np.ndarray | None = None
    """float32 probability with which this expert drew a position; None where it takes all."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """What the experts would have written at every position of one rollout."""

    rollout_id: str
    components: tuple[TargetComponent, ...]
    candidate_ids_TC: np.ndarray
    """int32; the ids that the candidate log-probs belong to, -1 is padding; C is 0 where the query
    had no candidates."""

    @property
    def id(self) -> str:
        """Derived from the content: the same answers built in the same way have the same id."""
        return (
            # Includes the builder's version: another way of building makes another target.
            "t-"
            + hashlib.sha256(
                f"{self.rollout_id}\0{BUILDER_VERSION}\0{self.content_hash()}".encode()
            ).hexdigest()[:24]
        )

    def labelled_T(self) -> np.ndarray:
        """`[T]` True where at least one component has weight."""
        return np.any([c.weight_T > 0 for c in self.components], axis=0)

    def to_wire(self) -> dict[str, Any]:
        """Arrays by name, as they are stored."""
        return {
            "candidate_ids_TC": self.candidate_ids_TC,
            "components": [
                {
                    "answer_id": c.answer_id,
                    "expert": c.expert,
                    "kind": c.kind,
                    "ids_TK": c.ids_TK,
                    "probs_TK": c.probs_TK,
                    "tail_T": c.tail_T,
                    "weight_T": c.weight_T,
                    "own_logprobs_T": c.own_logprobs_T,
                    "own_mask_T": c.own_mask_T,
                    "candidate_logprobs_TC": c.candidate_logprobs_TC,
                    "candidate_mask_TC": c.candidate_mask_TC,
                    **({} if c.inclusion_T is None else {"inclusion_T": c.inclusion_T}),
                }
                for c in self.components
            ],
        }

    @classmethod
    def from_wire(cls, rollout_id: str, arrays: dict[str, Any]) -> Target:
        """The target that `to_wire` wrote."""
        return cls(
            rollout_id=rollout_id,
            candidate_ids_TC=arrays["candidate_ids_TC"],
            components=tuple(TargetComponent(**fields) for fields in arrays["components"]),
        )

    def content_hash(self) -> str:
        """SHA-256 of the arrays; building the target again must give the same."""
        return content_hash(self.to_wire())


def build_target(rollout_id: str, owned_T: np.ndarray, answers: Sequence[WeightedAnswer]) -> Target:
    """Builds the target of one rollout.

    Args:
        rollout_id: The rollout that the answers belong to.
        owned_T: `[T]` bool: tokens that the student did not write get no target.
        answers: The answers received, in the recipe's order of experts. An expert that did not
            answer is left out; the weights of the others are then scaled up.

    Raises:
        ValueError: no answers, a weight that is not positive, or an answer for another response.
    """
    if not answers:
        raise ValueError("answers: is empty; a rollout without a teacher has no target")
    for item in answers:
        _check_weight(item)
        if len(item.query.response_ids) != len(owned_T):
            raise ValueError(f"answers: {item.answer_id} is about another response")
    # In float64 until they are stored, so that weights which were scaled once add up to 1 within
    # the rounding of float32.
    raw_ET = np.stack([_opinion_weights(item, owned_T) for item in answers])
    total_T = raw_ET.sum(0)
    # Per position: where an expert masks a token, the weights of the others fill its share there
    # only. Where the total is 0 all weights stay 0, and the position is unlabelled.
    weights_ET = np.divide(raw_ET, total_T, out=np.zeros_like(raw_ET), where=total_T > 0)
    return Target(
        rollout_id=rollout_id,
        components=tuple(
            _component(item, weight_T, len(owned_T))
            for item, weight_T in zip(answers, weights_ET, strict=True)
        ),
        # All experts were asked about the same candidates of the same student.
        candidate_ids_TC=_candidate_ids(answers[0].query, len(owned_T)),
    )


def inclusion(num_tokens: int, answers: Sequence[WeightedAnswer]) -> np.ndarray | None:
    """Probability of each position that at least one expert drew it.

    Experts draw their positions independently. A row masked by an expert that takes every position
    adds nothing: it would be masked in every draw.

    Args:
        num_tokens: T, the response's length.
        answers: The answers received.

    Returns:
        `[T]` float32 in (0, 1], 1 where no expert can have an opinion; None where every expert
        takes all positions.
    """
    if all(item.answer.inclusion_P is None for item in answers):
        return None
    # Draws are independent, so the probability that no expert drew a position is a product over
    # experts. In float64, because the result is 1 minus that product.
    missed_T = np.ones(num_tokens)
    for item in answers:
        chance_P = item.answer.inclusion_P
        chance_P = item.weight_P > 0 if chance_P is None else chance_P
        missed_T[item.query.position_ids()] *= 1.0 - chance_P.astype(np.float64)
    # Costs are divided by this. It is 1 where no expert can have an opinion: there is no cost.
    return np.where(missed_T < 1.0, 1.0 - missed_T, 1.0).astype(np.float32)


def _opinion_weights(item: WeightedAnswer, owned_T: np.ndarray) -> np.ndarray:
    weights = np.zeros(len(owned_T), np.float64)
    weights[item.query.position_ids()] = item.weight_P
    # A token that the student did not write was not its decision and is not corrected.
    return weights * owned_T


def _check_weight(item: WeightedAnswer) -> None:
    weight, expert = item.weight, item.answer.expert
    if isinstance(weight, np.ndarray):
        if weight.shape != (item.query.num_positions,):
            raise ValueError(
                f"answers: weights of {expert} have shape {weight.shape} for "
                f"{item.query.num_positions} positions"
            )
        if not (np.isfinite(weight) & (weight >= 0)).all():
            raise ValueError(f"answers: weights {weight} of {expert}, expected finite values >= 0")
    elif not weight > 0:
        raise ValueError(f"answers: weight {weight} of {expert}, expected a value above 0")


def _component(item: WeightedAnswer, weight_T: np.ndarray, T: int) -> TargetComponent:
    query, answer, at = item.query, item.answer, item.query.position_ids()
    filled = answer.filled_PK()
    ids = np.where(filled, answer.ids_PK, -1)
    # Not renormalised: the rest up to 1 is the tail, which is a separate entry in the loss.
    probs = np.where(filled, np.exp(answer.logprobs_PK), 0.0)
    C = 0 if query.candidate_ids is None else query.candidate_ids.shape[1]
    has_candidates = answer.candidate_logprobs_PC is not None and C > 0
    return TargetComponent(
        answer_id=item.answer_id,
        expert=answer.expert,
        kind=answer.kind,
        ids_TK=_spread(ids, at, T, -1, np.int32),
        probs_TK=_spread(probs, at, T, 0.0, np.float32),
        tail_T=_spread(np.where(answer.mask_P, answer.tail_P, 0.0), at, T, 0.0, np.float32),
        weight_T=weight_T.astype(np.float32),
        own_logprobs_T=_spread(answer.own_logprobs_P, at, T, MISSING, np.float32),
        own_mask_T=_spread(answer.own_mask_P, at, T, False, np.bool_),
        candidate_logprobs_TC=_spread(answer.candidate_logprobs_PC, at, T, MISSING, np.float32)
        if has_candidates
        else np.full((T, C), MISSING, np.float32),
        candidate_mask_TC=_spread(answer.candidate_mask_PC, at, T, False, np.bool_)
        if has_candidates
        else np.zeros((T, C), np.bool_),
        inclusion_T=None
        if answer.inclusion_P is None
        else _spread(answer.inclusion_P, at, T, 0.0, np.float32),
    )


def _candidate_ids(query: PrefixQuery, T: int) -> np.ndarray:
    if query.candidate_ids is None:
        return np.zeros((T, 0), np.int32)
    return _spread(query.candidate_ids, query.position_ids(), T, -1, np.int32)


def _spread(rows: Any, at: np.ndarray, T: int, empty: Any, dtype: Any) -> np.ndarray:
    # A position that was not queried is stored like one without an opinion: weight 0, masks false.
    dense = np.full((T, *rows.shape[1:]), empty, dtype)
    dense[at] = rows
    return dense


def without_answers(target: Target, answer_ids: Sequence[str]) -> Target | None:
    """`target` without the components of these answers; the other weights are scaled up.

    None where no other component has an opinion anywhere.
    """
    left = [c for c in target.components if c.answer_id not in answer_ids]
    if not any((c.weight_T > 0).any() for c in left):
        return None
    whole_T = np.sum([c.weight_T for c in target.components], axis=0, dtype=np.float64)
    rest_T = np.sum([c.weight_T for c in left], axis=0, dtype=np.float64)
    # The weights at a position sum to 1 again, as if only the other experts had been queried.
    scale_T = np.divide(whole_T, rest_T, out=np.zeros_like(rest_T), where=rest_T > 0)
    return replace(
        target,
        components=tuple(
            replace(c, weight_T=(c.weight_T * scale_T).astype(np.float32)) for c in left
        ),
    )
