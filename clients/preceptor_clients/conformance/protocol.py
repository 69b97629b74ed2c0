"""Checks of the declared capabilities, of refusals and of error replies."""

from __future__ import annotations

import asyncio
import json
from typing import Final, NamedTuple

import numpy as np
from pydantic import ValidationError

from preceptor_clients.conformance.subject import Subject, not_answered
from preceptor_clients.conformance.verdict import Failed, Skipped
from preceptor_clients.contract import wire
from preceptor_clients.contract.checks import MEND_VOCABULARY
from preceptor_clients.contract.errors import PROBLEM_MEDIA_TYPE, ProblemDetails
from preceptor_clients.contract.fingerprint import vocab_difference
from preceptor_clients.contract.schemas import LogprobsCall, PrefixQuery, PrefixResult
from preceptor_clients.contract.tokenization import TokenizeCall
from preceptor_clients.http.connection import RawReply

_MOST_IN_ONE_CALL: Final = 512
"""The limit of larger batches is not tested."""


async def check_health(subject: Subject) -> str:
    """`/livez` and `/readyz` answer without a key."""
    for path in ("/livez", "/readyz"):
        raw = await subject.stranger.raw("GET", path, timeout_s=subject.options.timeout_s)
        if raw.status != 200:
            raise Failed(
                expected=f"{path} answers 200 without a key when the service is ready",
                found=f"status {raw.status}",
                mend="do not require the key on the two health routes",
            )
    return ""


async def check_key(subject: Subject) -> str:
    """Calls without the key are refused."""
    if subject.options.key is None:
        raise Skipped("no key was given; give --key-file if the service requires a key")
    raw = await subject.stranger.raw("GET", "/v1/info", timeout_s=subject.options.timeout_s)
    _expect_problem(raw, 401, "unauthorised", "`GET /v1/info` without a key")
    return ""


async def check_declared(subject: Subject) -> str:
    """Capabilities contain everything that the gateway checks on submission."""
    info, capabilities = subject.info, subject.info.capabilities
    if info.role != "expert":
        raise Failed(
            expected="role `expert`",
            found=f"role `{info.role}`",
            mend="set `role` in `/v1/info`; this suite is for experts",
        )
    missing = [n for n in ("vocab_fingerprint", "vocab_size") if getattr(capabilities, n) is None]
    if missing:
        raise Failed(
            expected="`vocab_fingerprint` and `vocab_size` among the capabilities",
            found=f"{' and '.join(missing)} left out",
            mend="declare them: without them ids of another vocabulary are not detected",
        )
    open_ended = [n for n in ("max_context", "max_top_k") if getattr(capabilities, n) is None]
    return f"without limit: {', '.join(open_ended)}" if open_ended else ""


async def check_vocabulary(subject: Subject) -> str:
    """A query with another vocabulary or an id outside it is refused; other queries are not."""
    wanted, declared = (
        subject.options.vocab_fingerprint,
        subject.info.capabilities.vocab_fingerprint,
    )
    if wanted is not None and declared != wanted:
        why = "" if declared is None else vocab_difference("the expert", declared, "yours", wanted)
        raise Failed(
            expected=f"vocabulary {wanted}",
            found=f"vocabulary {declared}; {why}" if why else f"vocabulary {declared}",
            mend=MEND_VOCABULARY,
        )
    good = subject.query()
    other = good.model_copy(update={"vocab_fingerprint": "f" * 64})
    results = await subject.results(good, other)
    if results[0].answer is None and not results[0].accepted:
        raise not_answered(results[0].problem)
    _expect_refused(results[1], {409}, "a query with another `vocab_fingerprint`")
    if subject.info.capabilities.vocab_size is not None:
        outside = np.array([0, subject.vocab_size], np.int32)
        [result] = await subject.results(subject.query(outside))
        _expect_refused(
            result, {422}, f"a query with id {subject.vocab_size}, one above the vocabulary"
        )
    return await _check_tokenizer(subject) if subject.info.capabilities.tokenizer else ""


async def _check_tokenizer(subject: Subject) -> str:
    call = TokenizeCall(prompt="Two and two are 4.")
    found = await subject.client.tokenize(call, subject.options.timeout_s)
    outside = [i for i in found.ids.tolist() if not 0 <= i < subject.vocab_size]
    if outside or not found.ids.size:
        raise Failed(
            expected=f"`/v1/tokenize` gives ids below {subject.vocab_size} for {call.prompt!r}",
            found=f"ids {outside} outside the vocabulary" if outside else "no id",
            mend="serve the tokenizer of the declared vocabulary, or declare no `tokenizer`",
        )
    return f"tokenizer: {found.ids.size} ids of {call.prompt!r}"


async def check_limits(subject: Subject) -> str:
    """Queries at the declared limits are answered, queries beyond them are refused."""
    capabilities, limits = subject.info.capabilities, subject.info.limits
    seen = list[str]()
    if capabilities.max_top_k is not None:
        [result] = await subject.results(subject.query(top_k=capabilities.max_top_k + 1))
        _expect_refused(result, {422}, f"top_k {capabilities.max_top_k + 1}, one above the limit")
        at_limit = subject.query(top_k=min(capabilities.max_top_k, subject.vocab_size))
        await subject.ask(at_limit)
        seen.append(f"top_k {capabilities.max_top_k}")
    if not capabilities.candidates:
        candidates = np.zeros((8, 1), np.int32)
        [result] = await subject.results(subject.query(candidate_ids=candidates))
        _expect_refused(result, {422}, "candidates, which the expert does not declare")
    if limits.max_batch <= _MOST_IN_ONE_CALL:
        await _check_batch_limit(subject, limits.max_batch)
        seen.append(f"{limits.max_batch} queries per call")
    crowd = min(limits.max_concurrency, 8) + 2
    await asyncio.gather(*(subject.ask(subject.query()) for _ in range(crowd)))
    return ", ".join([*seen, f"{crowd} concurrent calls"])


async def _check_batch_limit(subject: Subject, max_batch: int) -> None:
    query = subject.query(1)
    await subject.ask(*[query] * max_batch)
    raw = await _post(subject, [query] * (max_batch + 1))
    _expect_problem(raw, 422, None, f"{max_batch + 1} queries in one call, one above the limit")


class _Mistake(NamedTuple):
    what: str
    method: str
    path: str
    content: bytes
    content_type: str
    status: int
    code: str | None


async def check_errors(subject: Subject) -> str:
    """Invalid requests are answered with problem details that name the fault."""
    query = json.loads(wire.render(subject.query(), wire.JSON))
    unknown = json.dumps({"queries": [query | {"no_such_field": 1}]}).encode()
    empty = json.dumps({"queries": [query | {"response_ids": []}]}).encode()
    path = "/v1/logprobs"
    mistakes = (
        _Mistake("a body that is not JSON", "POST", path, b"{", wire.JSON, 400, "malformed-frame"),
        _Mistake("an unknown field", "POST", path, unknown, wire.JSON, 422, "invalid"),
        _Mistake("an empty response", "POST", path, empty, wire.JSON, 422, "invalid"),
        _Mistake("a text body", "POST", path, b"{}", "text/plain", 415, "unsupported-media-type"),
        _Mistake("GET on a POST route", "GET", path, b"", wire.JSON, 405, None),
        _Mistake("an unknown route", "GET", "/v1/no-such-route", b"", wire.JSON, 404, "not-found"),
    )
    wrong = [found for each in mistakes if (found := await _try(subject, each)) is not None]
    if wrong:
        raise Failed(
            expected="; ".join(one.expected for one in wrong),
            found="; ".join(one.found for one in wrong),
            mend="; ".join(dict.fromkeys(one.mend for one in wrong)),
        )
    none_asked = await subject.results()
    assert not none_asked
    return f"{len(mistakes)} mistakes"


async def _try(subject: Subject, mistake: _Mistake) -> Failed | None:
    """The fault in the reply to one invalid request."""
    raw = await subject.client.raw(
        mistake.method,
        mistake.path,
        content=mistake.content or None,
        headers={"content-type": mistake.content_type, "accept": wire.JSON},
        timeout_s=subject.options.timeout_s,
    )
    try:
        problem = _expect_problem(raw, mistake.status, mistake.code, mistake.what)
    except Failed as failure:
        return failure
    if mistake.what != "an unknown field" or "no_such_field" in repr(problem):
        return None
    return Failed(
        expected="the problem names the unknown field, as `queries[0].no_such_field`",
        found=problem.detail or "no detail",
        mend='put it into `errors`: [{"field": ..., "detail": ...}]',
    )


async def _post(subject: Subject, queries: list[PrefixQuery]) -> RawReply:
    media_type = wire.FRAME if subject.info.frames else wire.JSON
    return await subject.client.raw(
        "POST",
        "/v1/logprobs",
        content=wire.render(LogprobsCall(queries=tuple(queries)), media_type),
        headers={"content-type": media_type, "accept": wire.JSON},
        timeout_s=subject.options.timeout_s,
    )


def _expect_problem(raw: RawReply, status: int, code: str | None, what: str) -> ProblemDetails:
    """The problem details of a whole call that must fail."""
    expected = f"{what}: status {status} with {PROBLEM_MEDIA_TYPE}"
    expected += "" if code is None else f", code `{code}`"
    media_type = (raw.content_type or "").partition(";")[0].strip().lower()
    problem = None
    if media_type == PROBLEM_MEDIA_TYPE:
        try:
            problem = ProblemDetails.model_validate_json(raw.body)
        except ValidationError:
            problem = None
    right = problem is not None and problem.status == status and code in (None, problem.code)
    if problem is not None and right and raw.status == status:
        return problem
    raise Failed(
        expected=expected,
        found=f"{what}: status {raw.status}, {media_type or 'no content type'}: "
        f"{raw.body[:200].decode(errors='replace')}",
        mend="answer with an object of RFC 9457; its fields and the codes are in "
        "docs/reference/wire-format.md",
    )


def _expect_refused(result: PrefixResult, statuses: set[int], what: str) -> None:
    """Checks that one query is refused inside a call that succeeds."""
    problem = result.problem
    if problem is not None and problem.status in statuses:
        return
    found = "an answer" if problem is None else f"status {problem.status}, {problem.code}"
    raise Failed(
        expected=f"{what}: a `problem` with status {min(statuses)} in the result of that query",
        found=found,
        mend="compare each query with the declared capabilities before the model runs",
    )
