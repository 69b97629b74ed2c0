"""The suite: every check in order. Checks are independent, so that one fault hides no other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from preceptor_clients.conformance import (
    convention,
    long_context,
    numbers,
    protocol,
    speed,
    truth,
)
from preceptor_clients.conformance.subject import Asked, CheckOptions, Subject
from preceptor_clients.conformance.verdict import Failed, Report, Skipped, Verdict
from preceptor_clients.contract.errors import PreceptorError
from preceptor_clients.contract.schemas import ServiceInfo
from preceptor_clients.http.connection import NO_RETRY, Transport
from preceptor_clients.http.service import ServiceClient

Check = Callable[[Subject], Awaitable[str]]

CHECKS: Final[dict[str, Check]] = {
    "health": protocol.check_health,
    "key": protocol.check_key,
    "declared": protocol.check_declared,
    "renderings": numbers.check_renderings,
    "door": numbers.check_door,
    "index": convention.check_index,
    "context": convention.check_context,
    "split": convention.check_split,
    "normalisation": numbers.check_normalisation,
    "candidates": numbers.check_candidates,
    "repeatable": numbers.check_repeatable,
    "batch": numbers.check_batch,
    "positions": numbers.check_positions,
    "vocabulary": protocol.check_vocabulary,
    "limits": protocol.check_limits,
    "context-limit": long_context.check_context_limit,
    "truncation": long_context.check_truncation,
    "weights": truth.check_weights,
    "temperature": truth.check_temperature,
    "known": truth.check_known,
    "errors": protocol.check_errors,
    "speed": speed.check_speed,
}


async def check_expert(
    url: str,
    options: CheckOptions,
    transport: Transport | None = None,
    only: Sequence[str] = (),
) -> Report:
    """Runs every check, or only those named, against the service at `url`.

    Raises:
        ValueError: `only` names no check.
        PreceptorError: the service does not answer `GET /v1/info` as an expert.
    """
    unknown = set(only) - CHECKS.keys()
    if unknown:
        raise ValueError(f"only: unknown checks {sorted(unknown)}; valid are {', '.join(CHECKS)}")
    async with (
        ServiceClient(url, options.key, retry=NO_RETRY, transport=transport) as client,
        ServiceClient(url, retry=NO_RETRY, transport=transport) as stranger,
    ):
        info = await client.info(timeout_s=options.timeout_s)
        if options.weights is not None and info.capabilities.weights:
            await client.offer_weights(options.weights)
        subject = await make_subject(client, stranger, info, options)
        verdicts = [await run_check(name, subject) for name in CHECKS if not only or name in only]
    return Report(url=url, service=info.name, version=info.version, verdicts=tuple(verdicts))


async def make_subject(
    client: Asked, stranger: Asked, info: ServiceInfo, options: CheckOptions
) -> Subject:
    """The subject of the checks; one query finds out which kind of prompt the service accepts."""
    subject = Subject(client=client, stranger=stranger, info=info, options=options)
    return replace(subject, takes_ids=await _takes_ids(subject))


async def run_check(name: str, subject: Subject) -> Verdict:
    """One check's verdict."""
    check = CHECKS[name]
    claim = (check.__doc__ or "").partition("\n")[0].rstrip(".")
    try:
        detail = await check(subject)
    except Skipped as reason:
        return Verdict(check=name, claim=claim, state="skipped", detail=str(reason))
    except Failed as failure:
        return Verdict(
            check=name,
            claim=claim,
            state="failed",
            expected=failure.expected,
            found=failure.found,
            mend=failure.mend,
        )
    except PreceptorError as error:
        return Verdict(
            check=name,
            claim=claim,
            state="failed",
            expected="a reply",
            found=error.detail,
            mend="see the service's log",
        )
    return Verdict(check=name, claim=claim, state="passed", detail=detail)


async def _takes_ids(subject: Subject) -> bool:
    """Whether a prompt of ids alone is accepted; else chat messages are sent."""
    try:
        [with_ids] = await subject.results(subject.query(2))
        if with_ids.problem is None:
            return True
        [with_words] = await replace(subject, takes_ids=False).results(
            replace(subject, takes_ids=False).query(2)
        )
    except Failed:
        return True
    return with_words.problem is not None
