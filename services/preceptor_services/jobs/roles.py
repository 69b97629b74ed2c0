"""The kind of question for each role of a service: one row per role.

Registry, gateway and dispatcher use this table. A further role is a row here, its name in
`ServiceRole`, its section in the deployment, and its field in `ClaimedItem` and `ItemResult`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from preceptor_clients.contract.checks import all_pass, check_answer, check_feedback
from preceptor_clients.contract.schemas import (
    Capabilities,
    FeedbackCall,
    FeedbackQuery,
    FeedbackReply,
    LogprobsCall,
    LogprobsReply,
    PrefixQuery,
    ServiceRole,
)
from preceptor_services.jobs.messages import ClaimedItem, ItemResult, JobKind


@dataclass(frozen=True, kw_only=True)
class RoleQuestion:
    """The kind of question for one role."""

    role: ServiceRole
    kind: JobKind
    """Name of the kind of its jobs."""
    path: str
    """Route of the service that takes a call."""
    query: type[PrefixQuery] | type[FeedbackQuery]
    """Schema of one question."""
    call: Callable[[Sequence[Any], Sequence[str]], LogprobsCall | FeedbackCall]
    """Makes the body of a call from queries and their answer keys."""
    reply: type[LogprobsReply] | type[FeedbackReply]
    """Schema of the reply to a call."""
    field: Literal["prefix", "feedback"]
    """Field of queries in `ClaimedItem` and of answers in `ItemResult`."""
    check: Callable[[Any, Any, Capabilities], None]
    """Refuses an answer that is not valid for the query."""
    all_pass: Callable[[Sequence[tuple[Any, Any]], Capabilities], bool]
    """Whether `check` passes for every query and its answer; False where each must be checked."""
    num_entries: Callable[[Any], int]
    """Numbers that a check of the answer to a query reads."""
    self_test: tuple[str, ...]
    """The conformance checks of a new version."""

    def query_of(self, item: ClaimedItem) -> Any:
        """The query of a question of this kind."""
        query = getattr(item, self.field)
        assert query is not None, f"a job of kind {self.kind} holds such queries"
        return query

    def result(self, answer_key: str, answer: Any) -> ItemResult:
        """An answer as a dispatcher reports it."""
        named: dict[str, Any] = {self.field: answer}
        return ItemResult(answer_key=answer_key, **named)


_EXPERT: Final = RoleQuestion(
    role="expert",
    kind="logprobs",
    path="/v1/logprobs",
    query=PrefixQuery,
    call=lambda queries, keys: LogprobsCall(queries=tuple(queries), answer_keys=tuple(keys)),
    reply=LogprobsReply,
    field="prefix",
    check=check_answer,
    all_pass=all_pass,
    num_entries=lambda query: query.num_positions * query.top_k,
    self_test=("door", "index", "normalisation", "candidates", "batch"),
)
_SOURCE: Final = RoleQuestion(
    role="source",
    kind="feedback",
    path="/v1/feedback",
    query=FeedbackQuery,
    call=lambda queries, keys: FeedbackCall(queries=tuple(queries)),
    reply=FeedbackReply,
    field="feedback",
    check=lambda query, answer, capabilities: check_feedback(query, answer),
    all_pass=lambda answers, capabilities: False,
    num_entries=lambda query: 0,
    self_test=(),
)
QUESTIONS: Final[Mapping[ServiceRole, RoleQuestion]] = {q.role: q for q in (_EXPERT, _SOURCE)}
_BY_KIND: Final = {question.kind: question for question in QUESTIONS.values()}


def question_of_kind(kind: str) -> RoleQuestion:
    """The row of a job's kind, as it is stored."""
    return _BY_KIND[kind]  # type: ignore[index]  an unknown kind is a KeyError


def role_named(role: str) -> ServiceRole:
    """The role of that name, as it is stored."""
    return QUESTIONS[role].role  # type: ignore[index]  an unknown role is a KeyError
