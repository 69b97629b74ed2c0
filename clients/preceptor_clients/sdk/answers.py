"""Builds an answer on the expert's side, so that it passes the gateway's check.

Order matters: log-probs are rounded to the wire's grid first, and the tail is computed from the
rounded values, because a consumer sees only those. A row whose rounded mass is above 1 is scaled
back and flagged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from preceptor_clients.contract.arrays import LEAST_LOGPROB, MISSING
from preceptor_clients.contract.checks import POSITIVE_TOLERANCE
from preceptor_clients.contract.errors import AnswerRefused
from preceptor_clients.contract.grid import (
    LOGPROB_FLOOR,
    LOGPROB_STEP,
    codes,
    is_on_grid,
    quantise,
    read_only_values,
)
from preceptor_clients.contract.schemas import AnswerKind, PrefixAnswer, PrefixQuery


@dataclass(frozen=True, kw_only=True)
class Distributions:
    """What a model computed at the `P` positions of one query.

    `ids_PK` and `logprobs_PK` are in descending order of log-prob, -1 and any value in empty cells;
    log-probs are normalised over the whole vocabulary at temperature 1. `own_logprobs_P` belongs to
    the student's tokens, `MISSING` where it is not known. Minus infinity, and values that stand for
    it (`LEAST_LOGPROB` and below), are not log-probs: such entries are left out, such tokens
    masked.
    """

    ids_PK: np.ndarray
    logprobs_PK: np.ndarray
    own_logprobs_P: np.ndarray | None
    candidate_logprobs_PC: np.ndarray | None = None


def build_answer(
    query: PrefixQuery,
    distributions: Distributions,
    *,
    expert: str,
    expert_version: str,
    kind: AnswerKind = "topk",
    mask_P: np.ndarray | None = None,
    exact: bool = False,
    **meta: Any,
) -> PrefixAnswer:
    """The answer to `query`.

    Args:
        query: The query to answer.
        distributions: The expert's distribution at each queried position.
        expert: The service's name.
        expert_version: Its version, as `/v1/info` gives it.
        kind: Meaning of the entries.
        mask_P: False where the expert has no opinion; all true where absent.
        exact: Keep float32 log-probs instead of the u16 grid.
        **meta: Further fields of `PrefixAnswer`, such as weights, template, context hash, used
            feedback, truncation and cost.

    Raises:
        AnswerRefused: the log-prob of a candidate is above 0.
    """
    d, num_positions = distributions, query.num_positions
    mask = np.ones(num_positions, np.bool_) if mask_P is None else mask_P
    given = (d.ids_PK >= 0) & mask[:, None]
    filled = given & ~(d.logprobs_PK <= LEAST_LOGPROB)  # NaN is kept here and refused below
    mask = mask & (filled.any(1) | ~given.any(1))
    rounded = d.logprobs_PK.astype(np.float32) if exact else quantise(d.logprobs_PK)
    logprobs, tail, renormalised = _normalise(rounded, filled, exact)
    own = d.own_logprobs_P
    own_mask = np.zeros_like(mask) if own is None else mask & ~(own <= LEAST_LOGPROB)
    own_values = np.full(num_positions, MISSING) if own is None else own
    return PrefixAnswer(
        kind=kind,
        token_ids_P=query.response_ids[query.position_ids()],
        mask_P=mask,
        num_entries_P=filled.sum(1).astype(np.int32),
        ids_PK=np.where(filled, d.ids_PK, -1).astype(np.int32),
        logprobs_PK=_finished(np.where(filled, logprobs, MISSING).astype(np.float32), exact),
        tail_P=tail,
        own_logprobs_P=np.where(own_mask, np.minimum(own_values, 0.0), MISSING).astype(np.float32),
        own_mask_P=own_mask,
        renormalised_P=renormalised if renormalised.any() else None,
        vocab_fingerprint=query.vocab_fingerprint,
        expert=expert,
        expert_version=expert_version,
        **_candidates(query, d.candidate_logprobs_PC, mask, exact),
        **meta,
    )


def _finished(logprobs_PK: np.ndarray, exact: bool) -> np.ndarray:
    """The same values; those of the grid remember their codes, for all renderings."""
    return logprobs_PK if exact else read_only_values(codes(logprobs_PK))


def rounded(answer: PrefixAnswer) -> PrefixAnswer:
    """`answer` on the u16 grid with new tails; unchanged if it is on the grid already.

    Raises:
        AnswerRefused: a log-prob is above 0. The grid ends at 0, a probability of 1, and no check
            would find the value afterwards.
    """
    candidates = answer.candidate_logprobs_PC
    _refuse_above_zero("logprobs_PK", answer.logprobs_PK)
    _refuse_above_zero("candidate_logprobs_PC", candidates)
    if is_on_grid(answer.logprobs_PK) and (candidates is None or is_on_grid(candidates)):
        return answer
    filled = answer.filled_PK()
    logprobs, tail, renormalised = _normalise(quantise(answer.logprobs_PK), filled, exact=False)
    if answer.renormalised_P is not None:
        renormalised = renormalised | answer.renormalised_P
    return answer.model_copy(
        update={
            "logprobs_PK": np.where(filled, logprobs, MISSING).astype(np.float32),
            "tail_P": tail,
            "renormalised_P": renormalised if renormalised.any() else None,
            "candidate_logprobs_PC": None if candidates is None else quantise(candidates),
        }
    )


def _refuse_above_zero(name: str, logprobs: np.ndarray | None) -> None:
    if logprobs is not None and logprobs.max(initial=0.0) > POSITIVE_TOLERANCE:
        raise AnswerRefused(name, "is above 0")


def _normalise(
    logprobs_PK: np.ndarray, filled_PK: np.ndarray, exact: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mass_P = np.where(filled_PK, np.exp(logprobs_PK.astype(np.float64)), 0.0).sum(1)
    over_P = mass_P > 1.0
    if over_P.any():
        scale = np.where(over_P, np.log(np.maximum(mass_P, 1.0)), 0.0)
        scaled = logprobs_PK - scale[:, None]
        # Rounded again, half a step down: the second rounding must not lift the row above 1 again.
        logprobs_PK = (scaled if exact else quantise(scaled - LOGPROB_STEP / 2)).astype(np.float32)
        mass_P = np.where(filled_PK, np.exp(logprobs_PK.astype(np.float64)), 0.0).sum(1)
    tail_P = np.where(filled_PK.any(1), np.clip(1.0 - mass_P, 0.0, 1.0), 0.0)
    return logprobs_PK, tail_P.astype(np.float32), over_P


def _candidates(
    query: PrefixQuery, logprobs_PC: np.ndarray | None, mask_P: np.ndarray, exact: bool
) -> dict[str, np.ndarray]:
    if query.candidate_ids is None or logprobs_PC is None:
        return {}
    _refuse_above_zero("candidate_logprobs_PC", logprobs_PC)
    known = (query.candidate_ids >= 0) & mask_P[:, None] & ~(logprobs_PC <= LEAST_LOGPROB)
    values = logprobs_PC.astype(np.float32) if exact else quantise(logprobs_PC)
    clipped = np.clip(values, LOGPROB_FLOOR if not exact else LEAST_LOGPROB, 0.0)
    return {
        "candidate_logprobs_PC": np.where(known, clipped, MISSING).astype(np.float32),
        "candidate_mask_PC": known,
    }
