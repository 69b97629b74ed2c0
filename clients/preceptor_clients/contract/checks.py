"""The check at the door: an expert's answer is refused unless it can be what was asked.

Wrong log-probs that look right do more harm than a crash, so each answer is tested for shape,
echoed ids, order, mass, finiteness and versions before anything stores or trains on it. Every
refusal names its check.

Dimensions: P positions that were asked, K entries of an answer, C candidate ids.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from preceptor_clients.contract.arrays import LEAST_LOGPROB
from preceptor_clients.contract.errors import (
    AnswerRefused,
    ContextTooLong,
    Invalid,
    VocabularyMismatch,
)
from preceptor_clients.contract.fingerprint import vocab_difference
from preceptor_clients.contract.schemas import (
    MOST_COST,
    Capabilities,
    FeedbackAnswer,
    FeedbackQuery,
    PrefixAnswer,
    PrefixQuery,
    WantedWeights,
)

# Sums in float32 may leave a certain token a little above log-prob 0.
_POSITIVE_TOLERANCE: Final = 1e-4
# Tight, because the tail is computed from the entries as they travel (`grid.py`), on either side in
# the same way; float32 is what is left.
_MASS_TOLERANCE: Final = 1e-5
"""For the sum of a row's probabilities above 1, and for its tail beside it."""
_GRID_TOLERANCE: Final = 1e-3
"""Two steps of the grid on which log-probs travel."""
_MOST_DRAWS: Final = 1 << 20
_MOST_LATENCY_MS: Final = 1e12
_OWN_TOLERANCE: Final = 2e-3
"""The own token's log-prob travels exact, the entries on a grid of 4.9e-4; renormalised rows may
differ by another step."""


def check_answer(query: PrefixQuery, answer: PrefixAnswer, capabilities: Capabilities) -> None:
    """Refuses an answer that cannot be right.

    Raises:
        AnswerRefused: with the name of the first check that failed.
    """
    _check_identity(query, answer, capabilities)
    _check_shapes(query, answer)
    _check_entries(query, answer, capabilities)
    _check_mass(answer)
    _check_tail(answer, capabilities.vocab_size)
    _check_own(answer)
    _check_candidates(query, answer)
    _check_feedback(query, answer, capabilities)
    _check_claims(answer, capabilities)


def _check_claims(answer: PrefixAnswer, capabilities: Capabilities) -> None:
    """What an answer says of itself, beside its numbers."""
    _check_price(answer.cost, answer.latency_ms)
    _refuse_unless(
        answer.num_draws is None or 1 <= answer.num_draws <= _MOST_DRAWS,
        "num_draws",
        f"is {answer.num_draws}, not 1 to {_MOST_DRAWS}",
    )
    chances = answer.inclusion_P
    _refuse_unless(
        chances is None or capabilities.draws_positions or (chances == 1).all(),
        "inclusion_P",
        "is below 1, and the expert does not declare `draws_positions`",
    )


def _check_price(cost: float | None, latency_ms: float | None) -> None:
    _refuse_unless(
        cost is None or 0 <= cost <= MOST_COST, "cost", f"is {cost}, not 0 to {MOST_COST:g}"
    )
    _refuse_unless(
        latency_ms is None or 0 <= latency_ms <= _MOST_LATENCY_MS,
        "latency_ms",
        f"is {latency_ms}, not 0 to {_MOST_LATENCY_MS:g}",
    )


def _refuse_unless(condition: object, check: str, detail: str) -> None:
    if not condition:
        raise AnswerRefused(check, detail)


def _no_logprob(where: str) -> str:
    return f"is missing, or {LEAST_LOGPROB:g} or below as no log-prob is, in {where}"


def _check_identity(query: PrefixQuery, answer: PrefixAnswer, capabilities: Capabilities) -> None:
    _refuse_unless(
        answer.vocab_fingerprint == query.vocab_fingerprint,
        "vocab_fingerprint",
        "is not the query's",
    )
    _refuse_unless(
        answer.kind in capabilities.kinds, "kind", f"{answer.kind} was not declared by the expert"
    )
    # A tempered distribution looks like any other, and trains towards another expert.
    _refuse_unless(
        answer.temperature == 1.0, "temperature", f"is {answer.temperature}, only 1 is meant"
    )
    _refuse_unless(
        # An expert that took new weights in the middle has answered as two models.
        answer.weights_before == answer.weights_after,
        "weights",
        f"changed during the batch: {answer.weights_before} to {answer.weights_after}",
    )
    if capabilities.weights and query.weights is not None:
        _check_weights(query.weights, answer.weights_before)


def _check_weights(wanted: WantedWeights, version: str | None) -> None:
    if wanted.mode == "exact":
        fits = version == wanted.version
    else:
        policy = wanted.policy or (wanted.version or "").partition("/")[0]
        fits = version is not None and version.partition("/")[0] == policy
    _refuse_unless(
        fits, "weights", f"are {version}, wanted {wanted.mode} {wanted.version or wanted.policy}"
    )


def _check_shapes(query: PrefixQuery, answer: PrefixAnswer) -> None:
    P = query.num_positions
    lengths = {
        "token_ids_P": len(answer.token_ids_P),
        "mask_P": len(answer.mask_P),
        "num_entries_P": len(answer.num_entries_P),
        "ids_PK": len(answer.ids_PK),
        "logprobs_PK": len(answer.logprobs_PK),
        "tail_P": len(answer.tail_P),
        "own_logprobs_P": len(answer.own_logprobs_P),
        "own_mask_P": len(answer.own_mask_P),
    }
    for name, length in lengths.items():
        _refuse_unless(length == P, name, f"has {length} rows for {P} positions")
    inclusion = answer.inclusion_P
    _refuse_unless(
        inclusion is None
        or (len(inclusion) == P and bool(((inclusion > 0) & (inclusion <= 1)).all())),
        "inclusion_P",
        f"is no {P} chances in (0, 1]",
    )
    _refuse_unless(
        answer.ids_PK.shape == answer.logprobs_PK.shape,
        "logprobs_PK",
        f"has shape {answer.logprobs_PK.shape}, ids {answer.ids_PK.shape}",
    )
    asked = query.response_ids[query.position_ids()]
    # The classic error is to be off by one: log-probs of the neighbours look right, and the echoed
    # ids show it.
    wrong = np.flatnonzero(answer.token_ids_P != asked)
    _refuse_unless(
        not wrong.size, "token_ids_P", f"differ from the ids sent, first at row {wrong[:1]}"
    )


def _check_entries(query: PrefixQuery, answer: PrefixAnswer, capabilities: Capabilities) -> None:
    K: int = answer.ids_PK.shape[1]
    n = np.where(answer.mask_P, answer.num_entries_P, 0)
    _refuse_unless(
        n.min(initial=0) >= 0 and n.max(initial=0) <= K, "num_entries_P", f"outside 0..{K}"
    )
    _refuse_unless(
        # Draws are as many as they are; each different one is an entry.
        answer.kind == "empirical" or n.max(initial=0) <= query.top_k,
        "num_entries_P",
        f"is over the {query.top_k} asked",
    )
    _refuse_unless(
        (n[answer.mask_P] > 0).all(), "num_entries_P", "is 0 in a row that is not masked"
    )
    filled = answer.filled_PK()
    ids, logprobs = answer.ids_PK, answer.logprobs_PK
    size = capabilities.vocab_size
    in_range = (ids >= 0) & (ids < size if size is not None else True)
    _refuse_unless(in_range[filled].all(), "ids_PK", "holds an id outside the vocabulary")
    # Empty cells get numbers of their own, or they would be each other's duplicates.
    ordered = np.where(filled, ids, -1 - np.arange(K)[None, :])
    ordered.sort(axis=1)
    _refuse_unless(
        (ordered[:, 1:] != ordered[:, :-1]).all(), "ids_PK", "names an id twice in one row"
    )
    _refuse_unless(
        (logprobs[filled] > LEAST_LOGPROB).all(),
        "logprobs_PK",
        _no_logprob("a filled cell; leave the entry out"),
    )
    _refuse_unless((logprobs[filled] <= _POSITIVE_TOLERANCE).all(), "logprobs_PK", "is above 0")
    # In order, since a reader that wants fewer entries takes the first; equal ones may differ in
    # the last bit.
    rising = (np.diff(logprobs, axis=1) > 1e-6) & filled[:, 1:]
    _refuse_unless(not rising.any(), "logprobs_PK", "is not in descending order")


def _check_mass(answer: PrefixAnswer) -> None:
    filled = answer.filled_PK()
    # In float64, because the tail is a small difference of large numbers.
    mass = np.where(filled, np.exp(answer.logprobs_PK.astype(np.float64)), 0.0).sum(1)
    rows = answer.mask_P
    _refuse_unless(
        (mass[rows] <= 1.0 + _MASS_TOLERANCE).all(),
        "mass",
        f"of a row is {mass[rows].max(initial=0.0):.6f}",
    )
    tail = answer.tail_P.astype(np.float64)
    _refuse_unless(((tail >= 0) & (tail <= 1))[rows].all(), "tail_P", "is outside 0..1")
    gap = np.abs(np.clip(1.0 - mass, 0.0, 1.0) - tail)[rows]
    _refuse_unless(
        (gap <= _MASS_TOLERANCE).all(),
        "tail_P",
        f"is not 1 minus the entries' mass: off by {gap.max(initial=0.0):.2e}",
    )


def _check_tail(answer: PrefixAnswer, vocab_size: int | None) -> None:
    """No token outside the best entries has more than the last of them: together so many times it.

    A row whose best entry is left out has more outside than that.
    """
    if answer.kind != "topk" or vocab_size is None or not answer.mask_P.any():
        return
    n = np.maximum(answer.num_entries_P, 1)
    last = np.exp(answer.logprobs_PK[np.arange(len(n)), n - 1].astype(np.float64))
    # Rounding the entries to the grid moves their whole mass, and with it the tail, by as much.
    most = (vocab_size - n) * last * (1 + _GRID_TOLERANCE) + _GRID_TOLERANCE + _MASS_TOLERANCE
    _refuse_unless(
        (answer.tail_P <= most)[answer.mask_P].all(),
        "tail_P",
        "is more than all other tokens can have, each at most as likely as the last entry: a best "
        "entry is missing",
    )


def _check_own(answer: PrefixAnswer) -> None:
    own, known = answer.own_logprobs_P, answer.own_mask_P
    _refuse_unless((~known | answer.mask_P).all(), "own_mask_P", "is true in a masked row")
    _refuse_unless(
        (own[known] > LEAST_LOGPROB).all(),
        "own_logprobs_P",
        _no_logprob("a row where its mask is true; set own_mask_P to false"),
    )
    _refuse_unless((own[known] <= _POSITIVE_TOLERANCE).all(), "own_logprobs_P", "is above 0")
    # Draws and points give no probability of the own token that the entries could contradict.
    if answer.kind != "topk" or not known.any():
        return
    same = (answer.ids_PK == answer.token_ids_P[:, None]) & answer.filled_PK() & known[:, None]
    rows, cols = np.nonzero(same)
    # In probabilities and not in nats: a token of e^-20 may be off by a nat without harm.
    gap = np.abs(np.exp(answer.logprobs_PK[rows, cols]) - np.exp(own[rows]))
    _refuse_unless(
        (gap <= _OWN_TOLERANCE).all(),
        "own_logprobs_P",
        "disagrees with the same token among the entries",
    )
    # A token outside the top entries can have no more than their tail, nor than the last of them.
    outside = known & ~same.any(1)
    last = answer.logprobs_PK[np.arange(len(own)), np.maximum(answer.num_entries_P, 1) - 1]
    most = np.minimum(np.exp(last), answer.tail_P)
    _refuse_unless(
        (np.exp(own) <= most + _OWN_TOLERANCE)[outside].all(),
        "own_logprobs_P",
        "is above what the entries leave to a token that is not among them",
    )


def _check_candidates(query: PrefixQuery, answer: PrefixAnswer) -> None:
    if query.candidate_ids is None or answer.candidate_logprobs_PC is None:
        return
    values, known = answer.candidate_logprobs_PC, answer.candidate_mask_PC
    _refuse_unless(
        known is not None and values.shape == known.shape == query.candidate_ids.shape,
        "candidate_logprobs_PC",
        f"has shape {values.shape} for candidates {query.candidate_ids.shape}",
    )
    assert known is not None
    _refuse_unless(
        (values[known] <= _POSITIVE_TOLERANCE).all(), "candidate_logprobs_PC", "is above 0"
    )
    _refuse_unless(
        (values[known] > LEAST_LOGPROB).all(),
        "candidate_logprobs_PC",
        _no_logprob("a row where its mask is true; set candidate_mask_PC to false"),
    )
    _refuse_unless(
        not (known & (query.candidate_ids < 0)).any(),
        "candidate_mask_PC",
        "is true where no candidate was asked",
    )


def _check_feedback(query: PrefixQuery, answer: PrefixAnswer, capabilities: Capabilities) -> None:
    sent = {item.id for item in query.feedback}
    unknown = set(answer.used_feedback) - sent
    _refuse_unless(
        not unknown, "used_feedback", f"names items that were not sent: {sorted(unknown)[:3]}"
    )
    if capabilities.needs_feedback:
        _refuse_unless(
            # Such an expert may still say that it has no opinion anywhere.
            answer.used_feedback or not answer.mask_P.any(),
            "used_feedback",
            "is empty, but the expert has no opinion without feedback",
        )


def check_feedback(query: FeedbackQuery, answer: FeedbackAnswer) -> None:
    """Refuses a feedback answer that cannot be right.

    Raises:
        AnswerRefused: an id stands twice, a failed item carries a score, or an item says nothing at
            all.
    """
    _check_price(answer.cost, answer.latency_ms)
    ids = [item.id for item in answer.items]
    _refuse_unless(len(set(ids)) == len(ids), "items", "name an id twice")
    for item in answer.items:
        _check_price(item.cost, None)
        _refuse_unless(
            # A judgement that failed is no score of 0: it must not lower the mean of a group.
            item.error is None or item.score is None,
            "items",
            f"{item.id} failed and yet has a score",
        )
        _refuse_unless(
            item.error is not None or item.score is not None or item.text is not None,
            "items",
            f"{item.id} has neither score nor text nor error",
        )
    _refuse_unless(query.rollout_id, "items", "belong to no rollout")


MEND_VOCABULARY: Final = (
    "`preceptor expert vocabulary FOLDER` prints what the student's tokenizer has: start the "
    "expert with that tokenizer and fingerprint; one whose model has another is served by "
    "`preceptor_services.experts.remote.aligned.aligning:Aligning`"
)


def check_query(query: PrefixQuery, capabilities: Capabilities, expert: str = "the expert") -> None:
    """Refuses a query that the expert cannot answer, before anything is queued or computed.

    Args:
        query: The query.
        capabilities: What the expert says of itself.
        expert: How it is called in the messages.

    Raises:
        VocabularyMismatch: the ids mean something else to the expert.
        ContextTooLong: prompt and response alone are over its context.
        Invalid: an id outside the vocabulary, or more entries or candidates than it can give.
    """
    wanted = capabilities.vocab_fingerprint
    if wanted is not None and query.vocab_fingerprint != wanted:
        raise VocabularyMismatch(
            f"{vocab_difference(expert, wanted, 'the query', query.vocab_fingerprint)}. "
            f"{MEND_VOCABULARY}",
            field="vocab_fingerprint",
        )
    _check_query_ids(query, capabilities.vocab_size)
    prompt_len = 0 if query.prompt.ids is None else len(query.prompt.ids)
    length = prompt_len + len(query.response_ids)
    if capabilities.max_context is not None and length > capabilities.max_context:
        raise ContextTooLong(
            f"prompt and response have {length} tokens, the expert takes "
            f"{capabilities.max_context}",
            field="response_ids",
        )
    if capabilities.max_top_k is not None and query.top_k > capabilities.max_top_k:
        raise Invalid(f"{query.top_k} is over {capabilities.max_top_k}", field="top_k")
    if query.candidate_ids is not None and not capabilities.candidates:
        raise Invalid("the expert scores no candidates", field="candidate_ids")


def _check_query_ids(query: PrefixQuery, vocab_size: int | None) -> None:
    fields = {
        "response_ids": query.response_ids,
        "prompt.ids": query.prompt.ids,
        "candidate_ids": query.candidate_ids,
    }
    for field, ids in fields.items():
        if vocab_size is not None and ids is not None and ids.size and ids.max() >= vocab_size:
            raise Invalid(f"holds {ids.max()}, the vocabulary has {vocab_size}", field=field)
