"""The registry's own questions to experts: a self-test of each version, and a canary.

An expert that is ready may still give wrong answers: shifted by one position, normalised over only
the entries that it sends, or swapped within a batch. So the registry asks each new version a few
questions before callers may use it, and refuses one that fails, with the reason. The canary is a
file of known answers that is checked at intervals: it detects changes under an unchanged version,
such as replaced weights. The registry keeps the answers of the last canary that passed, so that a
gateway that starts again compares with them.

An expert with versioned weights is asked without a version, about its initial weights; an expert
without weights at that time is not asked. People are not asked either, nor samplers for which each
draw costs a call.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from preceptor_clients.conformance.compare import departure
from preceptor_clients.conformance.subject import Asked, CheckOptions, Subject
from preceptor_clients.conformance.suite import CHECKS, make_subject
from preceptor_clients.conformance.truth import ask_known
from preceptor_clients.conformance.verdict import Failed, Skipped
from preceptor_clients.contract.errors import (
    DeadlineExceeded,
    PreceptorError,
    ServiceFailed,
    ServiceUnavailable,
    WeightsNotHere,
)
from preceptor_clients.contract.fingerprint import content_hash
from preceptor_clients.contract.known import KnownAnswers, load_known
from preceptor_clients.contract.schemas import PrefixAnswer, ServiceInfo
from preceptor_services.jobs.roles import QUESTIONS

_log = logging.getLogger("preceptor.gateway")
CANARY: Final = ("known",)
_CALL_S: Final = 60.0
ASKED_AGAIN_S: Final = 30.0
"""Seconds that a finding holds before the expert is asked again."""


class SelfTestFailed(ServiceFailed):
    """The expert gives wrong answers and must not be used for training."""

    code, title = "self-test-failed", "The expert failed the registry's self-test"


class CanaryAnswers(BaseModel):
    """The answers of one version to the questions of a file of known answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    questions: str
    """Hash of the known cases, because other cases have other answers."""
    answers: tuple[PrefixAnswer, ...]


@dataclass(kw_only=True)
class _Seen:
    """Results of the inspections of one expert."""

    version: str | None = None
    """The last version that passed."""
    canary_at: float = float("-inf")
    finding: SelfTestFailed | None = None
    found_version: str | None = None
    found_at: float = 0.0
    answers: CanaryAnswers | None = None
    """Its answers when the canary last passed."""


class Inspector:
    """Runs the self-test and the canary of experts."""

    def __init__(
        self, *, canary_every_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._canary_every_s = canary_every_s
        self._clock = clock
        self._seen: dict[str, _Seen] = {}

    def forget(self, name: str) -> None:
        """Discards the results of `name`, which another expert may get from now on."""
        self._seen.pop(name, None)

    def remember(self, name: str, answers: CanaryAnswers) -> None:
        """Takes the answers of the canary that last passed, before this process began."""
        self._seen.setdefault(name, _Seen()).answers = answers

    def last_answers(self, name: str) -> CanaryAnswers | None:
        """The answers of the canary that last passed."""
        seen = self._seen.get(name)
        return None if seen is None else seen.answers

    async def inspect(
        self,
        name: str,
        client: Asked,
        info: ServiceInfo,
        *,
        self_test: bool,
        known: KnownAnswers | Path | None,
    ) -> bool:
        """Runs the checks that are due.

        Returns:
            True if a check ran; all checks that ran have then passed.

        Raises:
            SelfTestFailed: an answer was wrong; the detail names the check and the remedy.
            ServiceUnavailable: the expert did not answer in time.
        """
        checks = () if info.role == "gateway" else QUESTIONS[info.role].self_test
        if not checks or not _answers_at_once(info):
            return False
        seen = self._seen.setdefault(name, _Seen())
        now = self._clock()
        if seen.finding is not None:
            if seen.found_version == info.version and now - seen.found_at < ASKED_AGAIN_S:
                raise seen.finding
            seen.version, seen.canary_at, seen.finding = None, float("-inf"), None
        asked = False
        try:
            if self_test and seen.version != info.version:
                await _run(checks, client, info, None)
                seen.version, asked = info.version, True
            if known is not None and now - seen.canary_at >= self._canary_every_s:
                answers = _read(known)
                await _run(CANARY, client, info, answers)
                await _run_again(seen, client, info, answers)
                seen.canary_at, asked = now, True
            return asked
        except SelfTestFailed as failure:
            seen.finding, seen.found_version, seen.found_at = failure, info.version, now
            _log.error("%s %s is refused: %s", name, info.version, failure.detail)
            raise


def _answers_at_once(info: ServiceInfo) -> bool:
    capabilities = info.capabilities
    return "topk" in capabilities.kinds and capabilities.cacheable == "true"


def _read(known: KnownAnswers | Path) -> KnownAnswers:
    if isinstance(known, KnownAnswers):
        return known
    try:
        return load_known(known)
    except (OSError, ValueError) as error:
        raise SelfTestFailed(f"the canary cannot be read: {error}") from error


async def _run(
    names: Sequence[str], client: Asked, info: ServiceInfo, known: KnownAnswers | None
) -> None:
    options = CheckOptions(known=known, timeout_s=_CALL_S)
    try:
        subject = await make_subject(client, client, info, options)
        for name in names:
            await _check(name, subject)
    except PreceptorError:
        raise
    except Exception as error:
        # A check that cannot read an answer cannot confirm it.
        _log.exception("a check failed")
        raise SelfTestFailed(
            f"a check could not read the expert's answers: {error!r:.300}"
        ) from error


async def _run_again(seen: _Seen, client: Asked, info: ServiceInfo, known: KnownAnswers) -> None:
    """Compares the answers with those of the last canary, with entries, tails and candidates."""
    subject = await make_subject(client, client, info, CheckOptions(known=known, timeout_s=_CALL_S))
    try:
        answers = await ask_known(subject, known.cases)
    except Skipped:
        return
    except Failed as failure:
        cause = failure.__cause__
        if isinstance(cause, (DeadlineExceeded, ServiceUnavailable, WeightsNotHere)):
            return
        raise SelfTestFailed(f"known: {failure.found}; fix: {failure.mend}") from failure
    now = CanaryAnswers(version=info.version, questions=_questions(known), answers=tuple(answers))
    _compare(seen.answers, now, known.tolerance)
    seen.answers = now


def _questions(known: KnownAnswers) -> str:
    return content_hash([[list(c.prompt_ids), list(c.response_ids)] for c in known.cases])


def _compare(before: CanaryAnswers | None, now: CanaryAnswers, tolerance: float) -> None:
    if before is None or (before.version, before.questions) != (now.version, now.questions):
        return
    for was, is_now in zip(before.answers, now.answers, strict=True):
        found = departure(was, is_now, tolerance)
        if found is not None:
            raise SelfTestFailed(
                f"known: expected the answers of the last canary; {found}; fix: give changed "
                "answers a new version"
            )


async def _check(name: str, subject: Subject) -> None:
    try:
        await CHECKS[name](subject)
    except Skipped:
        return
    except Failed as failure:
        cause = failure.__cause__
        if isinstance(cause, WeightsNotHere):
            return
        if isinstance(cause, (DeadlineExceeded, ServiceUnavailable)):
            raise ServiceUnavailable(f"did not answer the self-test: {cause.detail}") from failure
        raise SelfTestFailed(
            f"{name}: expected {failure.expected}; found {failure.found}; fix: {failure.mend}"
        ) from failure
    except PreceptorError as error:
        raise ServiceUnavailable(f"did not answer the self-test: {error.detail}") from error
