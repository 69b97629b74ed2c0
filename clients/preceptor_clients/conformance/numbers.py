"""Checks that the log-probs are of one distribution, independent of how they are queried."""

from __future__ import annotations

from typing import Final

import numpy as np

from preceptor_clients.conformance.compare import distance, entries, widest
from preceptor_clients.conformance.subject import Subject
from preceptor_clients.conformance.verdict import Failed, Skipped
from preceptor_clients.contract import wire
from preceptor_clients.contract.checks import check_answer
from preceptor_clients.contract.errors import AnswerRefused
from preceptor_clients.contract.schemas import PrefixAnswer, PrefixQuery

_WHOLE: Final = 4096
"""Vocabularies up to this size are queried completely."""
_MASS_TOLERANCE: Final = 0.02
_MENDS: Final = {
    "vocab_fingerprint": "echo the query's fingerprint in the answer",
    "kind": "declare the kind in `capabilities.kinds`",
    "temperature": "answer at temperature 1: do not scale the logits",
    "weights": "keep the weights fixed while a batch runs, and report their version",
    "token_ids_P": "echo `response_ids` at the queried positions, in order",
    "num_entries_P": "count the filled cells of each row; mask rows without any",
    "ids_PK": "list each id once, inside the vocabulary, -1 in empty cells",
    "logprobs_PK": "sort rows by descending log-prob; subtract the logsumexp of all logits",
    "mass": "normalise over the whole vocabulary; a missing log-prob is null, never 0.0",
    "tail_P": "compute the tail last: 1 minus the sum of exp(log-prob as sent)",
    "own_logprobs_P": "take it from the same row as the entries; null where it is not known",
    "own_mask_P": "false where the row is masked",
    "candidate_logprobs_PC": "one value per candidate of the query, in order; null for padding",
    "candidate_mask_PC": "false where the candidate is -1",
    "used_feedback": "name the items that were rendered, and no others",
}


async def check_door(subject: Subject) -> str:
    """Answers pass the checks that the dispatcher makes of each answer."""
    capabilities = subject.info.capabilities
    queries = [
        subject.query(),
        subject.query(1, prompt=subject.prompt(3, seed=5)),
        subject.query(6, positions=((0, 1), (3, 5))),
        subject.query(top_k=1),
    ]
    if capabilities.candidates:
        queries.append(subject.query(candidate_ids=subject.ids(16, 6).reshape(8, 2)))
    answers = await subject.ask(*queries)
    for query, answer in zip(queries, answers, strict=True):
        try:
            check_answer(query, answer, capabilities)
        except AnswerRefused as refused:
            raise Failed(
                expected=f"`{refused.check}` as defined in docs/reference/wire-format.md",
                found=refused.detail,
                mend=_MENDS.get(refused.check, "see docs/reference/wire-format.md"),
            ) from refused
    if not any(answer.mask_P.any() for answer in answers):
        raise Failed(
            expected="an opinion at some position",
            found="every position masked",
            mend="set `mask_P` true where the expert answers",
        )
    return f"{len(queries)} answers"


async def check_renderings(subject: Subject) -> str:
    """Answers in JSON and as a frame are the same."""
    query = subject.query()
    [spoken] = await subject.ask(query, media_type=wire.JSON)
    if not subject.info.frames:
        return "JSON only"
    [framed] = await subject.ask(query, media_type=wire.FRAME)
    if subject.info.capabilities.cacheable != "true":
        return "JSON and frame; not compared, because answers are declared to differ between draws"
    apart = widest(spoken, framed)
    if apart > subject.options.tolerance:
        raise Failed(
            expected="the same answer in JSON and as a frame",
            found=f"log-probs {apart:.3f} apart",
            mend="check the byte order and the u16 grid against tests/contract/vectors",
        )
    return "JSON and frame"


async def check_normalisation(subject: Subject) -> str:
    """Log-probs are normalised over the whole vocabulary, for any top_k."""
    need_topk(subject)
    depths = sorted({1, min(4, subject.top_k), subject.top_k})
    answers = await subject.ask(*(subject.query(top_k=k) for k in depths))
    for k, answer in zip(depths[:-1], answers[:-1], strict=True):
        apart = _shared(answer, answers[-1])
        if apart > subject.options.tolerance:
            raise Failed(
                expected=f"the same log-prob of an id with top_k {k} and {depths[-1]}",
                found=f"{apart:.3f} apart",
                mend="subtract the logsumexp over the whole vocabulary, not over the entries kept",
            )
    await _check_own_sum(subject, answers[-1])
    return await _check_whole(subject)


async def _check_own_sum(subject: Subject, answer: PrefixAnswer) -> None:
    """The student's tokens at one position are parts of one distribution."""
    likely = list(entries(answer, 0))[:4]
    tried = sorted({*likely, *(int(i) for i in subject.ids(8, 7))})
    queries = [subject.query(np.array([i], np.int32)) for i in tried]
    answers = await asked_one_by_one(subject, queries)
    known = [float(a.own_logprobs_P[0]) for a in answers if a.own_mask_P[0]]
    mass = float(np.exp(known).sum())
    if mass > 1 + _MASS_TOLERANCE:
        raise Failed(
            expected=f"probabilities of {len(known)} tokens at one position add up to at most 1",
            found=f"{mass:.2f}, the largest log-prob {max(known):.3f}",
            mend="send null and mask false for an unknown log-prob; 0.0 means probability 1",
        )


async def _check_whole(subject: Subject) -> str:
    capabilities, V = subject.info.capabilities, subject.vocab_size
    if capabilities.vocab_size is None:
        return "the sum was not checked: the vocabulary's size is not declared"
    if min(_WHOLE, capabilities.max_top_k or _WHOLE) >= V:
        [answer] = await subject.ask(subject.query(1, top_k=V))
        mass = float(np.exp(list(entries(answer, 0).values())).sum())
    elif capabilities.candidates:
        everything = np.arange(V, dtype=np.int32)[None]
        [answer] = await subject.ask(subject.query(1, candidate_ids=everything))
        if answer.candidate_logprobs_PC is None or answer.candidate_mask_PC is None:
            return "the sum was not checked: some candidates were masked"
        known = answer.candidate_logprobs_PC[answer.candidate_mask_PC].astype(np.float64)
        mass = float(np.exp(known).sum())
    else:
        return "the sum was not checked: the vocabulary is too large"
    # The rows beyond the vocabulary have mass too, which no id shows.
    is_padded = (capabilities.head_size or V) > V
    if mass > 1 + _MASS_TOLERANCE or (mass < 1 - _MASS_TOLERANCE and not is_padded):
        raise Failed(
            expected=f"probabilities of all {V} ids add up to 1",
            found=f"{mass:.4f}",
            mend="subtract the logsumexp of all logits, in float32 at least; a head with more rows "
            "than the vocabulary is declared by `capabilities.head_size`",
        )
    return f"all {V} ids add up to {mass:.4f}"


async def check_candidates(subject: Subject) -> str:
    """Candidates have the log-prob that the entries give the same ids."""
    if not subject.info.capabilities.candidates:
        raise Skipped("the expert scores no candidates")
    need_topk(subject)
    [plain] = await subject.ask(subject.query())
    best = np.where(plain.filled_PK(), plain.ids_PK, -1)[:, :4].astype(np.int32)
    # In ascending order of id, so that returning the best ids in rank order does not pass.
    asked = np.sort(best, axis=1)
    [answer] = await subject.ask(subject.query(candidate_ids=asked))
    if answer.candidate_logprobs_PC is None or answer.candidate_mask_PC is None:
        raise Failed(
            expected="`candidate_logprobs_PC` with its mask",
            found="left out",
            mend="score the candidates, or declare `candidates: false`",
        )
    worst = 0.0
    for t in range(len(asked)):
        row = entries(plain, t)
        for c, token in enumerate(asked[t]):
            if token >= 0 and answer.candidate_mask_PC[t, c]:
                got = float(answer.candidate_logprobs_PC[t, c])
                worst = max(worst, abs(row[int(token)] - got))
    if worst > subject.options.tolerance:
        raise Failed(
            expected="a candidate's log-prob is that of the same id among the entries",
            found=f"{worst:.3f} apart",
            mend="gather candidates by position and id, in the order of the query",
        )
    return ""


async def check_repeatable(subject: Subject) -> str:
    """The same query gets the same answer."""
    query = subject.query()
    [first] = await subject.ask(query)
    [second] = await subject.ask(query)
    if subject.info.capabilities.cacheable != "true":
        raise Skipped("answers are declared to differ between draws")
    apart = widest(first, second)
    if apart > subject.options.tolerance:
        raise Failed(
            expected="equal answers to equal queries",
            found=f"log-probs {apart:.3f} apart",
            mend="turn dropout and sampling off; use the same weights for the same version",
        )
    return "equal to the last digit" if apart == 0 else f"{apart:.1e} apart"


async def check_batch(subject: Subject) -> str:
    """An answer does not depend on the other queries of its batch, nor on their order."""
    need_topk(subject)
    lengths = (8, 3, 5, 8, 1)
    queries = [
        subject.query(subject.ids(n, 20 + i), prompt=subject.prompt(6 + 3 * i, seed=30 + i))
        for i, n in enumerate(lengths)
    ][: max(1, subject.info.limits.max_batch)]
    alone = await asked_one_by_one(subject, queries)
    together = await subject.ask(*queries)
    reverse = (await subject.ask(*queries[::-1]))[::-1]
    apart = 0.0
    for i, one in enumerate(alone):
        for batched, how in ((together[i], "in a batch"), (reverse[i], "in the reversed batch")):
            gap = widest(one, batched)
            apart = max(apart, gap)
            if gap > subject.options.tolerance:
                raise _batch_failure(i, how, gap, batched, alone, subject.options.tolerance)
    return f"{len(queries)} queries, {apart:.1e} apart"


def _batch_failure(
    index: int,
    how: str,
    gap: float,
    batched: PrefixAnswer,
    alone: list[PrefixAnswer],
    tolerance: float,
) -> Failed:
    rows = len(batched.mask_P)
    twin = next(
        (
            j
            for j, other in enumerate(alone)
            if j != index
            and all(
                distance(batched, t, other, t) <= tolerance
                for t in range(min(rows, len(other.mask_P)))
            )
        ),
        None,
    )
    found = f"query {index} {how}: log-probs {gap:.3f} apart"
    mend = "check padding, attention mask and position ids of packed rows"
    if twin is not None:
        found += f"; it is the answer to query {twin}"
        mend = "return results in the order of the queries, also where they are sorted by length"
    return Failed(expected="the same answer as for the query alone", found=found, mend=mend)


async def check_positions(subject: Subject) -> str:
    """A query of some positions gets the same rows as a query of all positions."""
    need_topk(subject)
    [every] = await subject.ask(subject.query())
    [some] = await subject.ask(subject.query(positions=((1, 3), (6, 7))))
    apart = max(distance(every, t, some, row) for row, t in enumerate((1, 2, 6)))
    if apart > subject.options.tolerance:
        raise Failed(
            expected="row p belongs to the p-th queried position",
            found=f"log-probs {apart:.3f} apart from the same positions of the complete answer",
            mend="pick rows by `positions`; they are half-open ranges of the response",
        )
    return ""


def need_topk(subject: Subject) -> None:
    """Skips a check that needs `topk` answers."""
    if "topk" not in subject.info.capabilities.kinds:
        raise Skipped(f"answers are {' and '.join(subject.info.capabilities.kinds)}")


async def asked_one_by_one(subject: Subject, queries: list[PrefixQuery]) -> list[PrefixAnswer]:
    """The answers, with one call per query."""
    return [(await subject.ask(query))[0] for query in queries]


def _shared(a: PrefixAnswer, b: PrefixAnswer) -> float:
    """Largest difference among the ids that both answers contain."""
    gaps = [0.0]
    for t in range(len(a.mask_P)):
        one, other = entries(a, t), entries(b, t)
        gaps += [abs(x - other[i]) for i, x in one.items() if i in other]
    return max(gaps)
