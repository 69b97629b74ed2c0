"""Checks queries one by one and computes their keys, before anything is written.

An error of one submission becomes its problem; the other submissions continue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from preceptor_clients.contract import frame
from preceptor_clients.contract.checks import check_query
from preceptor_clients.contract.errors import FieldError, Invalid, PreceptorError
from preceptor_clients.contract.schemas import (
    FeedbackItem,
    FeedbackQuery,
    FeedbackSubmission,
    PrefixQuery,
    PrefixSubmission,
    ServiceInfo,
    WantedWeights,
)
from preceptor_services.jobs.roles import question_of_kind
from preceptor_services.kit.compression import compress, decompress
from preceptor_services.questions.bundle import num_tokens
from preceptor_services.questions.keys import (
    feedback_answer_key,
    payload_hash,
    prefix_answer_key,
    ticket_id,
)

_DEFAULT_PRIORITY = 5


@dataclass(frozen=True, kw_only=True)
class Question:
    """One submission that passed the checks."""

    index: int
    """Its index in the request."""
    idempotency_key: str
    ticket_id: str
    payload_hash: str
    answer_key: str
    query: PrefixQuery | FeedbackQuery
    """What the service will be asked."""
    num_tokens: int
    group_id: str | None
    rollout_id: str | None
    priority: int
    timeout_s: float
    feedback: tuple[FeedbackItem, ...]

    def packed(self) -> bytes:
        """The query as a compressed frame, in which it is stored."""
        # The whole frame, not only its body: prompts and feedback are text in its header.
        return compress(frame.encode(self.query))


@dataclass(frozen=True, kw_only=True)
class Addressee:
    """The caller and the service that is asked."""

    caller: str
    service: str
    info: ServiceInfo
    priority: int


def at_submission(error: PreceptorError, index: int) -> PreceptorError:
    """`error` with its fields relative to the whole request."""
    place = f"submissions[{index}].query"
    error.errors = tuple(
        FieldError(field=f"{place}.{e.field}", detail=e.detail) for e in error.errors
    ) or (FieldError(field=place, detail=error.detail),)
    return error


def prepare_prefixes(
    addressee: Addressee,
    submissions: Sequence[PrefixSubmission],
    weights: Mapping[str, str | PreceptorError],
) -> tuple[list[Question], dict[int, PreceptorError]]:
    """Checks queries against the expert's capabilities.

    Args:
        addressee: Caller and expert.
        submissions: The submissions.
        weights: For every `WantedWeights` among them, by `wish_key`: the exact version, or the
            reason why there is none.

    Returns:
        The questions that pass, and the error of each that does not, by its index.
    """
    questions: list[Question] = []
    errors: dict[int, PreceptorError] = {}
    for index, submission in enumerate(submissions):
        query = submission.query
        try:
            check_query(query, addressee.info.capabilities, f"expert {addressee.service}")
            exact = _exact_weights(query, addressee.info, weights)
        except PreceptorError as error:
            errors[index] = at_submission(error, index)
            continue
        key = prefix_answer_key(addressee.service, addressee.info.version, exact, query)
        resolved = query
        if exact is not None:
            wanted = WantedWeights(mode="exact", version=exact)
            resolved = query.model_copy(update={"weights": wanted})
        questions.append(_question(addressee, index, submission, key, resolved, query.feedback))
    return questions, errors


def wish_key(wanted: WantedWeights) -> str:
    """Equal values of `WantedWeights` have equal keys."""
    return wanted.model_dump_json()


def prepare_feedback(
    addressee: Addressee, submissions: Sequence[FeedbackSubmission], known_payloads: set[str]
) -> tuple[list[Question], dict[int, PreceptorError]]:
    """Checks feedback queries; `known_payloads` are the blobs among those that they name."""
    questions: list[Question] = []
    errors: dict[int, PreceptorError] = {}
    for index, submission in enumerate(submissions):
        query = submission.query.model_copy(update={"payload": None})
        if query.payload_sha256 not in known_payloads:
            missing = Invalid(
                f"no blob {query.payload_sha256}; upload it first", field="payload_sha256"
            )
            errors[index] = at_submission(missing, index)
            continue
        key = feedback_answer_key(addressee.service, addressee.info.version, query)
        questions.append(_question(addressee, index, submission, key, query, ()))
    return questions, errors


def unpack_query(kind: str, packed: bytes) -> PrefixQuery | FeedbackQuery:
    """The query of a stored question."""
    message = frame.decode(decompress(packed))
    return question_of_kind(kind).query.model_validate(message)


def unpack_fields(packed: bytes) -> dict[str, Any]:
    """The fields of a stored question, for passing them on: arrays are unread."""
    return frame.decode(decompress(packed), unread=True)


def _exact_weights(
    query: PrefixQuery, info: ServiceInfo, weights: Mapping[str, str | PreceptorError]
) -> str | None:
    if not info.capabilities.weights:
        return None
    if query.weights is None:
        raise Invalid("is missing; this expert answers with versioned weights", field="weights")
    exact = weights[wish_key(query.weights)]
    if isinstance(exact, PreceptorError):
        raise type(exact)(exact.detail, field="weights")
    return exact


def _question(
    addressee: Addressee,
    index: int,
    submission: PrefixSubmission | FeedbackSubmission,
    answer_key: str,
    resolved: PrefixQuery | FeedbackQuery,
    feedback: tuple[FeedbackItem, ...],
) -> Question:
    query = submission.query
    priority = addressee.priority if query.priority == _DEFAULT_PRIORITY else query.priority
    return Question(
        index=index,
        idempotency_key=submission.idempotency_key,
        ticket_id=ticket_id(addressee.caller, submission.idempotency_key),
        payload_hash=payload_hash(addressee.service, query),
        answer_key=answer_key,
        query=resolved,
        num_tokens=num_tokens(query),
        group_id=query.group_id,
        rollout_id=query.rollout_id,
        priority=priority,
        timeout_s=query.timeout_ms / 1000,
        feedback=feedback,
    )
