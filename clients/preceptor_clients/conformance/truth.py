"""Checks of the right model: versions, temperature, and answers known from another source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from preceptor_clients.conformance.compare import apart, entries, widest
from preceptor_clients.conformance.subject import Subject
from preceptor_clients.conformance.verdict import Failed, Skipped
from preceptor_clients.contract.checks import check_answer
from preceptor_clients.contract.errors import AnswerRefused, WeightsNotHere
from preceptor_clients.contract.grid import LOGPROB_FLOOR
from preceptor_clients.contract.known import KnownAnswers, KnownCase
from preceptor_clients.contract.schemas import PrefixAnswer, PrefixQuery, Prompt, WantedWeights

_NEVER: Final = "conformance/never/0"
_TEMPERATURES: Final = np.geomspace(0.4, 2.5, 85)
_LOWEST, _HIGHEST = 0.8, 1.25
_ENOUGH_TOKENS: Final = 128
_LOOK_ALIKE: Final = 1e-4


async def check_known(subject: Subject) -> str:
    """Log-probs and entries equal those of the model's own library."""
    known = _known(subject)
    cases = [case for case in known.cases if case.logprobs is not None or case.entries is not None]
    if not cases:
        raise Skipped("no case in --known has `logprobs` or `entries`")
    worst, shifts = 0.0, list[tuple[float, float]]()
    for case, answer in zip(cases, await ask_known(subject, cases), strict=True):
        worst = max(worst, _entries_off(answer, case))
        if case.logprobs is None:
            continue
        own, expected = _shown(answer), np.array(case.logprobs)
        worst = max(worst, _furthest(answer, own, expected), _candidates_off(answer, expected))
        if len(own) > 1 and not np.isnan(own).any():
            early = float(np.nanmean(np.abs(own[:-1] - expected[1:])))
            late = float(np.nanmean(np.abs(own[1:] - expected[:-1])))
            shifts.append((early, late))
    if not worst <= known.tolerance:
        raise Failed(
            expected=f"log-probs within {known.tolerance:g} of those in --known",
            found=f"{worst:.3f} apart{_shift_of(shifts, known.tolerance)}",
            mend="possible causes: other weights, another vocabulary, a cut context, a "
            "temperature; compare one token's logits with the model's own library",
        )
    return f"{sum(len(c.response_ids) for c in cases)} tokens, {worst:.1e} apart"


async def ask_known(subject: Subject, cases: Sequence[KnownCase]) -> list[PrefixAnswer]:
    """Answers to the cases, each of which passes the answer check.

    Raises:
        Failed: an answer is refused by the answer check.
    """
    answers: list[PrefixAnswer] = []
    for case in cases:
        query = known_query(subject, case)
        [answer] = await subject.ask(query)
        try:
            check_answer(query, answer, subject.info.capabilities)
        except AnswerRefused as error:
            raise Failed(
                expected="an answer that passes the answer check",
                found=error.detail,
                mend="answer this text like any other",
            ) from error
        answers.append(answer)
    return answers


def _shown(answer: PrefixAnswer) -> np.ndarray:
    """`[T]` log-probs of the response's tokens, from the entries where masked; NaN where
    neither."""
    shown = np.where(answer.own_mask_P, answer.own_logprobs_P.astype(np.float64), np.nan)
    same = (answer.ids_PK == answer.token_ids_P[:, None]) & answer.filled_PK()
    rows, cols = np.nonzero(same)
    hidden = np.isnan(shown[rows])
    shown[rows[hidden]] = answer.logprobs_PK[rows[hidden], cols[hidden]]
    return shown


def _furthest(answer: PrefixAnswer, shown: np.ndarray, expected: np.ndarray) -> float:
    """Largest gap to the known log-probs, in nats.

    The log-prob of a token that is masked and not among the entries is at most that of the last
    entry.
    """
    if not answer.mask_P.any():
        raise Skipped("the expert gives no log-prob of the student's own tokens")
    told = ~np.isnan(shown)
    last = answer.logprobs_PK[np.arange(len(shown)), np.maximum(answer.num_entries_P, 1) - 1]
    gaps = np.where(told, np.abs(shown - expected), np.maximum(expected - last, 0.0))
    return float(gaps[answer.mask_P].max())


def _entries_off(answer: PrefixAnswer, case: KnownCase) -> float:
    """Largest gap between the answer's best entries and the known ones, in nats.

    Both lists hold the best tokens, so one that only one of them names is at most as likely as the
    last of the other.
    """
    known = case.entries or ()
    if known and not answer.mask_P.any():
        raise Skipped("the expert gives no entries for the known text")
    gaps = [apart(dict(row), entries(answer, t)) for t, row in enumerate(known) if answer.mask_P[t]]
    return max(gaps, default=0.0)


def _candidates_off(answer: PrefixAnswer, expected: np.ndarray) -> float:
    """The same for the first candidates, which are the response's tokens; 0 without candidates."""
    if answer.candidate_logprobs_PC is None or answer.candidate_mask_PC is None:
        return 0.0
    gaps = np.abs(answer.candidate_logprobs_PC[:, 0] - expected)
    # Candidates are rounded to a grid, which has a smallest value.
    scored = answer.candidate_mask_PC[:, 0] & (expected > LOGPROB_FLOOR)
    return float(np.where(scored, gaps, 0.0).max(initial=0.0))


def _shift_of(shifts: list[tuple[float, float]], tolerance: float) -> str:
    if not shifts:
        return ""
    early, late = np.mean(shifts, axis=0)
    if min(early, late) > tolerance:
        return ""
    return "; they are those of the next token" if early < late else "; of the token before"


async def check_temperature(subject: Subject) -> str:
    """Answers are at temperature 1, independent of any sampler."""
    [plain] = await subject.ask(subject.query())
    if plain.temperature != 1.0:
        raise Failed(
            expected="`temperature` 1",
            found=f"{plain.temperature}",
            mend="answer with log-softmax of the raw logits, before any temperature",
        )
    if subject.options.known is None:
        raise Skipped("declared as 1, not measured; give --known with text that the model knows")
    known = _known(subject)
    answers = [await _ask_case(subject, case) for case in known.cases]
    scored = [(a, t) for a in answers for t in range(len(a.mask_P)) if a.own_mask_P[t]]
    if len(scored) < _ENOUGH_TOKENS:
        raise Skipped(f"--known has {len(scored)} tokens, at least {_ENOUGH_TOKENS} are needed")
    fitted = _fitted_temperature(scored, subject.vocab_size)
    if not _LOWEST <= fitted <= _HIGHEST:
        raise Failed(
            expected=f"a temperature of {_LOWEST:g} to {_HIGHEST:g} fits the text in --known best",
            found=f"{fitted:.2f} fits best: the answers are "
            f"{'sharper' if fitted > 1 else 'flatter'} than the text",
            mend="do not divide the logits by a temperature, in the engine or after it; if the "
            "model does not know the text, give other text",
        )
    return f"{fitted:.2f} fits {len(scored)} tokens best"


def _fitted_temperature(scored: list[tuple[PrefixAnswer, int]], vocab_size: int) -> float:
    """The temperature at which the answers give the text the highest likelihood.

    The tail counts as if its ids were equally likely.
    """
    loss = np.zeros(len(_TEMPERATURES))
    beta = 1.0 / _TEMPERATURES
    for answer, t in scored:
        n = int(answer.num_entries_P[t])
        logprobs = answer.logprobs_PK[t, :n].astype(np.float64)
        mass = np.exp(beta[:, None] * logprobs).sum(1)
        num_outside, tail = vocab_size - n, float(answer.tail_P[t])
        if num_outside > 0 and tail > 0:
            mass += num_outside * (tail / num_outside) ** beta
        loss += np.log(mass) - beta * float(answer.own_logprobs_P[t])
    return float(_TEMPERATURES[loss.argmin()])


async def check_weights(subject: Subject) -> str:
    """Each version has its own answers, and an unknown version is refused."""
    if not subject.info.capabilities.weights:
        raise Skipped("the expert has no versions of weights")
    offer = subject.options.weights
    if offer is None or not offer.manifests:
        raise Skipped("give --weights FILE with versions that the expert may load")
    found = await _refusal_of_never(subject)
    if found is not None:
        raise Failed(
            expected=f"weights {_NEVER}, which were never offered: a problem with status 425",
            found=found,
            mend="answer with the wanted version or refuse the query",
        )
    answers = [await _ask_version(subject, m.version) for m in offer.manifests[-2:]]
    if len(answers) == 2 and widest(*answers) < _LOOK_ALIKE:
        raise Failed(
            expected=f"different answers with {offer.manifests[-1].version} than with "
            f"{offer.manifests[-2].version}",
            found="the same to the last digit",
            mend="load the wanted version before the batch runs; put the version into cache keys",
        )
    return f"{len(answers)} versions"


async def _refusal_of_never(subject: Subject) -> str | None:
    """What was returned instead of `weights-not-here`, for a query or for the whole call."""
    never = WantedWeights(mode="exact", version=_NEVER)
    try:
        [result] = await subject.results(subject.query(weights=never))
    except Failed as failure:
        return None if isinstance(failure.__cause__, WeightsNotHere) else failure.found
    if result.problem is None:
        return "an answer"
    return None if result.problem.status == 425 else f"status {result.problem.status}"


async def _ask_version(subject: Subject, version: str) -> PrefixAnswer:
    query = subject.query(weights=WantedWeights(mode="exact", version=version))
    [answer] = await subject.ask(query)
    if not answer.weights_before == answer.weights_after == version:
        raise Failed(
            expected=f"weights {version} before and after",
            found=f"{answer.weights_before} before, {answer.weights_after} after",
            mend="report the version of the weights that computed the answer",
        )
    return answer


def _known(subject: Subject) -> KnownAnswers:
    known = subject.options.known
    if known is None:
        raise Skipped("give --known FILE with numbers from another source to compare with")
    if known.vocab_fingerprint != subject.info.capabilities.vocab_fingerprint:
        raise Failed(
            expected=f"vocabulary {known.vocab_fingerprint}, that of --known",
            found=f"vocabulary {subject.info.capabilities.vocab_fingerprint}",
            mend="serve the model that the file was made with, or make a new file; fingerprints "
            "of two versions (`v2-` and none) cannot be compared",
        )
    return known


async def _ask_case(subject: Subject, case: KnownCase) -> PrefixAnswer:
    [answer] = await ask_known(subject, [case])
    return answer


def known_query(subject: Subject, case: KnownCase) -> PrefixQuery:
    """The query of one case."""
    prompt = Prompt(ids=np.array(case.prompt_ids, np.int32))
    ids = np.array(case.response_ids, np.int32)
    # The response's token and the next one, so that rows in a wrong order are detected.
    candidates = np.stack([ids, np.roll(ids, -1)], axis=1)
    scored: dict[str, Any] = (
        {"candidate_ids": candidates} if subject.info.capabilities.candidates else {}
    )
    return subject.query(ids, prompt=prompt, **scored)
