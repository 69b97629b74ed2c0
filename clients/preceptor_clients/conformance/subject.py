"""The service under test, and how the checks query it.

Queries use random ids of the declared vocabulary, the same in every run. The prompt has exact ids,
or a chat message where the expert does not accept ids alone. Log-probs are requested unrounded
where the service supports frames.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from pydantic import ValidationError

from preceptor_clients.conformance.verdict import Failed, Skipped
from preceptor_clients.contract import wire
from preceptor_clients.contract.errors import PreceptorError, ProblemDetails, from_problem
from preceptor_clients.contract.known import KnownAnswers
from preceptor_clients.contract.schemas import (
    FeedbackItem,
    LogprobsCall,
    LogprobsReply,
    Message,
    PrefixAnswer,
    PrefixQuery,
    PrefixResult,
    Prompt,
    ServiceInfo,
    WantedWeights,
    WeightsOffer,
)
from preceptor_clients.contract.tokenization import TokenIds, TokenizeCall
from preceptor_clients.http.connection import RawReply

_EXACT: Final = f"{wire.FRAME};logprobs=f32, {wire.JSON};q=0.5"
_ASSUMED_VOCABULARY: Final = 256
_WORDS: Final = ("red", "four", "the", "a", "list", "of", "two", "sorted", "and", "then")
_FEEDBACK: Final = FeedbackItem(
    id="conformance", kind="comment", text="expected 4, got 5", source="conformance", version="1"
)


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """How the checks are run."""

    key: str | None = None
    """Bearer key of the service."""
    vocab_fingerprint: str | None = None
    """The student's vocabulary, which the expert must have."""
    known: KnownAnswers | None = None
    """Answers of the model's own library."""
    weights: WeightsOffer | None = None
    """Versions to offer to an expert that answers with versioned weights, ancestors first."""
    tolerance: float = 0.15
    """Largest allowed difference, in nats, of equal answers; the default allows for bf16."""
    max_tokens: int = 4096
    """Longest context of a query; the limit of an expert with a longer context is not tested."""
    timeout_s: float = 60.0
    """Deadline of one call."""

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise ValueError(f"tolerance: {self.tolerance} is not above 0")
        if self.max_tokens < 32:
            raise ValueError(f"max_tokens: {self.max_tokens} is below 32")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s: {self.timeout_s} is not above 0")


class Asked(Protocol):
    """The part of a service's client that the checks use; `ServiceClient` has it."""

    async def raw(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = ...,
        headers: Mapping[str, str] | None = ...,
        timeout_s: float = ...,
    ) -> RawReply: ...

    async def tokenize(self, call: TokenizeCall, timeout_s: float) -> TokenIds: ...


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One expert under test."""

    client: Asked
    stranger: Asked
    """A client of the same address without a key."""
    info: ServiceInfo
    options: CheckOptions
    takes_ids: bool = True
    """Whether a prompt of ids alone is accepted; else chat messages are sent."""

    @property
    def vocab_size(self) -> int:
        """The declared size, else one that is below that of most vocabularies."""
        return self.info.capabilities.vocab_size or _ASSUMED_VOCABULARY

    @property
    def top_k(self) -> int:
        """Number of entries of a typical query."""
        return min(64, self.info.capabilities.max_top_k or 64, self.vocab_size)

    def ids(self, num: int, seed: int) -> np.ndarray:
        """`[num]` random ids, the same for the same seed."""
        return np.random.default_rng(seed).integers(0, self.vocab_size, num).astype(np.int32)

    def prompt(self, num_tokens: int = 12, seed: int = 1) -> Prompt:
        """A prompt of about `num_tokens` tokens."""
        if self.takes_ids:
            return Prompt(ids=self.ids(num_tokens, seed))
        chosen = np.random.default_rng(seed).integers(0, len(_WORDS), max(1, num_tokens // 8))
        return Prompt(
            messages=(Message(role="user", content=" ".join(_WORDS[int(i)] for i in chosen)),)
        )

    def query(
        self, response: np.ndarray | int = 8, *, prompt: Prompt | None = None, **fields: Any
    ) -> PrefixQuery:
        """A query about `response`, or about that many random tokens."""
        capabilities = self.info.capabilities
        versions = () if self.options.weights is None else self.options.weights.manifests
        values: dict[str, Any] = {
            "prompt": self.prompt() if prompt is None else prompt,
            "response_ids": self.ids(response, 2) if isinstance(response, int) else response,
            "vocab_fingerprint": capabilities.vocab_fingerprint or "0" * 64,
            "top_k": self.top_k,
            "feedback": (_FEEDBACK,) if capabilities.needs_feedback else (),
            "weights": WantedWeights(mode="exact", version=versions[-1].version)
            if capabilities.weights and versions
            else None,
            "timeout_ms": int(self.options.timeout_s * 1000),
        }
        return PrefixQuery(**(values | fields))

    async def ask(self, *queries: PrefixQuery, media_type: str | None = None) -> list[PrefixAnswer]:
        """The answers, in order; every array has one row per queried position.

        Raises:
            Failed: a query was not answered.
            Skipped: the expert answers later.
        """
        results = await self.results(*queries, media_type=media_type)
        late = self.info.capabilities.late_s is not None
        return [_answered(q, r, late=late) for q, r in zip(queries, results, strict=True)]

    async def results(
        self, *queries: PrefixQuery, media_type: str | None = None
    ) -> list[PrefixResult]:
        """The results, problems included; queries above the limit of one call go into more calls.

        Raises:
            Failed: a whole call was refused, or its reply is not valid.
        """
        size = max(1, self.info.limits.max_batch)
        found = list[PrefixResult]()
        for start in range(0, max(1, len(queries)), size):
            found += await self._call(queries[start : start + size], media_type)
        return found

    async def _call(
        self, queries: tuple[PrefixQuery, ...], media_type: str | None
    ) -> list[PrefixResult]:
        keys = tuple(hashlib.sha256(f"{i}".encode()).hexdigest() for i in range(len(queries)))
        call = LogprobsCall(queries=queries, answer_keys=keys)
        if media_type is None:
            media_type = wire.FRAME if self.info.frames else wire.JSON
        accept = _EXACT if media_type == wire.FRAME else wire.JSON
        try:
            raw = await self.client.raw(
                "POST",
                "/v1/logprobs",
                content=wire.render(call, media_type),
                headers={"content-type": media_type, "accept": accept},
                timeout_s=self.options.timeout_s,
            )
        except PreceptorError as error:
            raise Failed(
                expected=f"a reply within {self.options.timeout_s:g} s",
                found=error.detail,
                mend="see the service's log, or raise --timeout",
            ) from error
        if raw.status != 200:
            raise Failed(
                expected="status 200 with one result per query",
                found=f"status {raw.status}: {raw.body[:300].decode(errors='replace')}",
                mend="answer each query separately; put the fault of one query as a `problem` into "
                "its result",
            ) from _problem_of(raw)
        try:
            reply = wire.parse(LogprobsReply, raw.body, raw.content_type)
        except PreceptorError as error:
            raise Failed(
                expected="a LogprobsReply as defined in docs/openapi.json",
                found=error.detail,
                mend="compare the reply with tests/contract/vectors/logprobs_reply.json",
            ) from error
        if len(reply.results) != len(queries):
            raise Failed(
                expected=f"{len(queries)} results, one per query, in order",
                found=f"{len(reply.results)} results",
                mend="return a result for every query; the result of a failed query is a `problem`",
            )
        return list(reply.results)


def _problem_of(raw: RawReply) -> PreceptorError | None:
    """The error in the reply of a refused call, if there is one."""
    try:
        return from_problem(ProblemDetails.model_validate_json(raw.body))
    except ValidationError:
        return None


def _answered(query: PrefixQuery, result: PrefixResult, *, late: bool) -> PrefixAnswer:
    if result.accepted and late:
        raise Skipped("the expert answers later")
    if result.accepted:
        raise Failed(
            expected="an answer: the expert does not declare late answers",
            found="a promise",
            mend="answer in the reply, or declare `late_s`: how long a late answer may take",
        )
    if result.answer is None:
        problem = result.problem
        raise not_answered(problem) from (None if problem is None else from_problem(problem))
    P = query.num_positions
    rows = {len(a) for a in (result.answer.mask_P, result.answer.ids_PK, result.answer.logprobs_PK)}
    rows |= {len(result.answer.own_logprobs_P), len(result.answer.num_entries_P)}
    if rows != {P} or result.answer.ids_PK.shape != result.answer.logprobs_PK.shape:
        raise Failed(
            expected=f"{P} rows in every array: one per queried position",
            found=f"arrays of {sorted(rows)} rows",
            mend="answer exactly the queried positions, in their order",
        )
    return result.answer


def not_answered(problem: ProblemDetails | None) -> Failed:
    """The failure for a query without an answer."""
    found = "neither answer nor problem" if problem is None else f"{problem.code}: {problem.detail}"
    mend = "the query is within the limits that `/v1/info` declares: answer it, or lower the limits"
    if problem is not None and problem.code == "weights-not-here":
        mend = "give `--weights FILE` with versions that the expert may load"
    return Failed(expected="an answer", found=found, mend=mend)
