"""The answer check: refuses an expert's answer that cannot be an answer to its query.

Wrong log-probs that look right do more harm than a crash, so each answer is checked for shape,
echoed ids, order, mass, finiteness and versions before anything stores or trains on it. Every
refusal names its check.

Dimensions: P positions that were asked, K entries of an answer, C candidate ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

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

# With float32 sums, a token of probability 1 may get a log-prob slightly above 0.
POSITIVE_TOLERANCE: Final = 1e-4
# Tight, because sender and receiver compute the tail in the same way, from the entries as they are
# encoded (`grid.py`). Only the rounding of float32 remains.
_MASS_TOLERANCE: Final = 1e-5
"""Allowed excess of a row's probabilities over 1, and allowed error of its tail."""
_GRID_TOLERANCE: Final = 1e-3
"""Two steps of the grid on which log-probs travel."""
_PADDED_MASS: Final = 0.2
"""Probability that the padding of a declared head may have: no entry names it, and it counts to the
tail. An untrained model gives it its share of the rows."""
_LARGE_PADDING: Final = 0.1
"""Share of a head's rows from which on its padding may have any mass."""
_MOST_DRAWS: Final = 1 << 20
_MOST_LATENCY_MS: Final = 1e12
_SHORT: Final = 4096
"""Entries of an answer whose rows are checked together with those of others."""
_OWN_TOLERANCE: Final = 2e-3
"""The log-prob of the own token is sent exactly; the entries are rounded to a grid of 4.9e-4.
Renormalised rows may differ by another step."""


def check_answer(query: PrefixQuery, answer: PrefixAnswer, capabilities: Capabilities) -> None:
    """Refuses an answer that cannot be right.

    Raises:
        AnswerRefused: with the name of the first check that failed.
    """
    _check_identity(query, answer, capabilities)
    _check_shapes(query, answer)
    _check_rows(_rows_of(query, answer), capabilities)
    _check_candidates(query, answer)
    _check_feedback(query, answer, capabilities)
    _check_claims(answer, capabilities)


def all_pass(
    answers: Iterable[tuple[PrefixQuery, PrefixAnswer]], capabilities: Capabilities
) -> bool:
    """Whether `check_answer` passes for every one of these queries and answers.

    The rows of short answers are checked together: numpy takes longer to begin than to check them.
    """
    together: dict[tuple[str, int, int], list[_Rows]] = {}
    try:
        for query, answer in answers:
            _check_identity(query, answer, capabilities)
            _check_shapes(query, answer)
            _check_candidates(query, answer)
            _check_feedback(query, answer, capabilities)
            _check_claims(answer, capabilities)
            rows = _rows_of(query, answer)
            if rows.ids_PK.size > _SHORT:
                _check_rows(rows, capabilities)
            else:
                alike = (rows.kind, rows.top_k, rows.ids_PK.shape[1])
                together.setdefault(alike, []).append(rows)
        for parts in together.values():
            _check_rows(_joined(parts), capabilities)
    except AnswerRefused:
        return False
    return True


class _Rows(NamedTuple):
    """The rows of one answer, or of several that differ in nothing else; fields as in answers."""

    kind: str
    top_k: int
    token_ids_P: np.ndarray
    mask_P: np.ndarray
    num_entries_P: np.ndarray
    ids_PK: np.ndarray
    logprobs_PK: np.ndarray
    tail_P: np.ndarray
    own_logprobs_P: np.ndarray
    own_mask_P: np.ndarray


_NUM_FACTS: Final = 2
"""Fields of `_Rows` before its arrays."""


def _rows_of(query: PrefixQuery, answer: PrefixAnswer) -> _Rows:
    arrays = (getattr(answer, name) for name in _Rows._fields[_NUM_FACTS:])
    return _Rows(answer.kind, query.top_k, *arrays)


def _joined(parts: Sequence[_Rows]) -> _Rows:
    if len(parts) == 1:
        return parts[0]
    columns = zip(*(part[_NUM_FACTS:] for part in parts), strict=True)
    return _Rows(parts[0].kind, parts[0].top_k, *map(np.concatenate, columns))


def _check_rows(rows: _Rows, capabilities: Capabilities) -> None:
    cells = _check_counts(rows)
    _check_entries(rows, cells, capabilities)
    _check_mass(rows, cells)
    _check_tail(rows, capabilities)
    _check_own(rows, cells)


def _check_claims(answer: PrefixAnswer, capabilities: Capabilities) -> None:
    """Checks price, latency, number of draws and inclusion chances."""
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
        "has values below 1, but the expert does not declare `draws_positions`",
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


class _Cells(NamedTuple):
    """The cells that hold an entry; in most answers, all of them."""

    filled_PK: np.ndarray
    all_filled: bool

    def of(self, array_PK: np.ndarray) -> np.ndarray:
        """The values of these cells; picking them out costs more than checking them."""
        return array_PK if self.all_filled else array_PK[self.filled_PK]


def _refuse_unless(condition: object, check: str, detail: str) -> None:
    if not condition:
        raise AnswerRefused(check, detail)


def _no_logprob(where: str) -> str:
    return f"is missing or not above {LEAST_LOGPROB:g} in {where}"


def _check_identity(query: PrefixQuery, answer: PrefixAnswer, capabilities: Capabilities) -> None:
    _refuse_unless(
        answer.vocab_fingerprint == query.vocab_fingerprint,
        "vocab_fingerprint",
        "differs from the query's",
    )
    _refuse_unless(
        answer.kind in capabilities.kinds, "kind", f"{answer.kind} was not declared by the expert"
    )
    # A tempered distribution cannot be recognised by its values, and would train the student
    # towards a different expert.
    _refuse_unless(answer.temperature == 1.0, "temperature", f"is {answer.temperature}, expected 1")
    _refuse_unless(
        # If the weights changed during the batch, the answers come from two models.
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
        if length != P:
            raise AnswerRefused(name, f"has {length} rows for {P} positions")
    inclusion = answer.inclusion_P
    _refuse_unless(
        inclusion is None
        or (len(inclusion) == P and bool(((inclusion > 0) & (inclusion <= 1)).all())),
        "inclusion_P",
        f"expected {P} values above 0 and at most 1",
    )
    if answer.ids_PK.shape != answer.logprobs_PK.shape:
        shapes = f"has shape {answer.logprobs_PK.shape}, ids {answer.ids_PK.shape}"
        raise AnswerRefused("logprobs_PK", shapes)
    asked = query.response_ids[query.position_ids()]
    # The most common fault is a shift by one: log-probs of the neighbouring token look plausible.
    # The echoed ids reveal it.
    if not np.array_equal(answer.token_ids_P, asked):
        wrong = np.flatnonzero(answer.token_ids_P != asked)
        raise AnswerRefused("token_ids_P", f"differ from the ids sent, first at row {wrong[:1]}")


def _check_counts(answer: _Rows) -> _Cells:
    K: int = answer.ids_PK.shape[1]
    n = np.where(answer.mask_P, answer.num_entries_P, 0)
    most = n.max(initial=0)
    _refuse_unless(n.min(initial=0) >= 0 and most <= K, "num_entries_P", f"is outside 0..{K}")
    _refuse_unless(
        # The number of different draws is not bounded by top_k; each is an entry.
        answer.kind == "empirical" or most <= answer.top_k,
        "num_entries_P",
        f"is above top_k = {answer.top_k}",
    )
    _refuse_unless(
        not (answer.mask_P & (n == 0)).any(), "num_entries_P", "is 0 in a row that is not masked"
    )
    filled = np.arange(K) < n[:, None]
    return _Cells(filled, bool(filled.all()))


def _check_entries(answer: _Rows, cells: _Cells, capabilities: Capabilities) -> None:
    K: int = answer.ids_PK.shape[1]
    logprobs, size = answer.logprobs_PK, capabilities.vocab_size
    ids = cells.of(answer.ids_PK)
    _refuse_unless(
        ids.min(initial=0) >= 0 and (size is None or ids.max(initial=0) < size),
        "ids_PK",
        "holds an id outside the vocabulary",
    )
    if cells.all_filled:
        ordered = answer.ids_PK.copy()
    else:
        # Empty cells get distinct negative numbers, so that they do not count as duplicates.
        ordered = np.where(cells.filled_PK, answer.ids_PK, -1 - np.arange(K)[None, :])
    ordered.sort(axis=1)
    _refuse_unless(
        (ordered[:, 1:] != ordered[:, :-1]).all(), "ids_PK", "names an id twice in one row"
    )
    values = cells.of(logprobs)
    _refuse_unless(
        values.min(initial=0.0) > LEAST_LOGPROB,
        "logprobs_PK",
        _no_logprob("a filled cell; leave the entry out"),
    )
    _refuse_unless(values.max(initial=-1.0) <= POSITIVE_TOLERANCE, "logprobs_PK", "is above 0")
    # The order matters: a reader that needs fewer entries takes the first ones. Equal log-probs may
    # differ in the last bit.
    rising = np.diff(logprobs, axis=1) > 1e-6
    if not cells.all_filled:
        rising &= cells.filled_PK[:, 1:]
    _refuse_unless(not rising.any(), "logprobs_PK", "is not in descending order")


def _check_mass(answer: _Rows, cells: _Cells) -> None:
    # In float64, because the tail is a small difference of large numbers.
    probs_PK = np.exp(answer.logprobs_PK.astype(np.float64))
    if not cells.all_filled:
        probs_PK = np.where(cells.filled_PK, probs_PK, 0.0)
    mass = probs_PK.sum(1)
    rows = answer.mask_P
    most = mass[rows].max(initial=0.0)
    _refuse_unless(
        most <= 1.0 + _MASS_TOLERANCE, "mass", f"of a row is {most:.6f}, expected at most 1"
    )
    tail = answer.tail_P.astype(np.float64)
    _refuse_unless(((tail >= 0) & (tail <= 1))[rows].all(), "tail_P", "is outside 0..1")
    gap = np.abs(np.clip(1.0 - mass, 0.0, 1.0) - tail)[rows].max(initial=0.0)
    _refuse_unless(
        gap <= _MASS_TOLERANCE,
        "tail_P",
        f"is not 1 minus the entries' mass: off by {gap:.2e}",
    )


def _check_tail(answer: _Rows, capabilities: Capabilities) -> None:
    """Checks that the tail is at most (V - n) times the probability of the last entry.

    Each of the V - n tokens outside the n best entries is at most as likely as the last entry. Only
    an expert that declares `partial_entries` may leave out a best one, and only one that declares a
    larger `head_size` has mass in the tail that belongs to no token: any mass where the own token
    is known, and up to `_PADDED_MASS` where it is hidden.
    """
    size, head = capabilities.vocab_size, capabilities.head_size
    if answer.kind != "topk" or size is None or capabilities.partial_entries:
        return
    if not answer.mask_P.any():
        return
    n = np.maximum(answer.num_entries_P, 1)
    last = np.exp(answer.logprobs_PK[np.arange(len(n)), n - 1].astype(np.float64))
    # Padding without training may have any mass. A row whose own token is hidden as too improbable
    # is held to the usual mass all the same, since nothing else of it can be compared.
    padded = head is not None and head > size
    padding = np.where(answer.own_mask_P & padded, 1.0, _padded_mass(size, head or size))
    # Rounding the entries to the grid changes their sum, and so the tail, by up to this tolerance.
    most = (size - n) * last * (1 + _GRID_TOLERANCE) + padding + _GRID_TOLERANCE
    _refuse_unless(
        (answer.tail_P <= most)[answer.mask_P].all(),
        "tail_P",
        "is larger than the sum of all other tokens can be, each at most as likely as the last "
        "entry: one of the best entries is missing",
    )


def _padded_mass(size: int, head: int) -> float:
    """The most mass that the head's rows beyond the vocabulary may have."""
    if head <= size:
        return 0.0
    # Heads are padded to a round number; one of which padding is a large part belongs to a toy
    # model without training, whose padding may have any mass.
    return 1.0 if head - size > _LARGE_PADDING * head else _PADDED_MASS


def _check_own(answer: _Rows, cells: _Cells) -> None:
    own, known = answer.own_logprobs_P, answer.own_mask_P
    _refuse_unless((~known | answer.mask_P).all(), "own_mask_P", "is true in a masked row")
    _refuse_unless(
        (own[known] > LEAST_LOGPROB).all(),
        "own_logprobs_P",
        _no_logprob("a row where its mask is true; set own_mask_P to false"),
    )
    _refuse_unless((own[known] <= POSITIVE_TOLERANCE).all(), "own_logprobs_P", "is above 0")
    # `empirical` and `point` answers hold no probability to compare the own log-prob with.
    if answer.kind != "topk" or not known.any():
        return
    same = answer.ids_PK == answer.token_ids_P[:, None]
    if not cells.all_filled:
        same &= cells.filled_PK
    if not known.all():
        same &= known[:, None]
    rows, cols = np.nonzero(same)
    # Compared as probabilities, not in nats: an error of one nat at probability e^-20 is harmless.
    gap = np.abs(np.exp(answer.logprobs_PK[rows, cols]) - np.exp(own[rows]))
    _refuse_unless(
        (gap <= _OWN_TOLERANCE).all(),
        "own_logprobs_P",
        "disagrees with the same token among the entries",
    )
    # A token outside the top entries is at most as likely as the tail and as the last entry.
    outside = known & ~same.any(1)
    last = answer.logprobs_PK[np.arange(len(own)), np.maximum(answer.num_entries_P, 1) - 1]
    most = np.minimum(np.exp(last), answer.tail_P)
    _refuse_unless(
        (np.exp(own) <= most + _OWN_TOLERANCE)[outside].all(),
        "own_logprobs_P",
        "is larger than a token outside the entries can have: above the tail or the last entry",
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
        (values[known] <= POSITIVE_TOLERANCE).all(), "candidate_logprobs_PC", "is above 0"
    )
    _refuse_unless(
        (values[known] > LEAST_LOGPROB).all(),
        "candidate_logprobs_PC",
        _no_logprob("a row where its mask is true; set candidate_mask_PC to false"),
    )
    _refuse_unless(
        not (known & (query.candidate_ids < 0)).any(),
        "candidate_mask_PC",
        "is true in a cell without a candidate",
    )


def _check_feedback(query: PrefixQuery, answer: PrefixAnswer, capabilities: Capabilities) -> None:
    unknown = set(answer.used_feedback) - {item.id for item in query.feedback}
    if unknown:
        names = f"names items that were not sent: {sorted(unknown)[:3]}"
        raise AnswerRefused("used_feedback", names)
    if capabilities.needs_feedback:
        _refuse_unless(
            # An answer without any opinion is still allowed.
            answer.used_feedback or not answer.mask_P.any(),
            "used_feedback",
            "is empty, but the expert has no opinion without feedback",
        )


def check_feedback(query: FeedbackQuery, answer: FeedbackAnswer) -> None:
    """Refuses a feedback answer that cannot be right.

    Raises:
        AnswerRefused: two items have the same id, a failed item has a score, or an item has
            neither score nor text nor error.
    """
    _check_price(answer.cost, answer.latency_ms)
    ids = [item.id for item in answer.items]
    _refuse_unless(len(set(ids)) == len(ids), "items", "contain an id twice")
    for item in answer.items:
        _check_price(item.cost, None)
        _refuse_unless(
            # A failed judgement must not count as score 0 and lower the mean of a group.
            item.error is None or item.score is None,
            "items",
            f"{item.id} has an error and a score; a failed item must have no score",
        )
        _refuse_unless(
            item.error is not None or item.score is not None or item.text is not None,
            "items",
            f"{item.id} has neither score nor text nor error",
        )
    _refuse_unless(query.rollout_id, "items", "belong to no rollout: the query has no rollout_id")


MEND_VOCABULARY: Final = (
    "`preceptor expert vocabulary FOLDER` prints the fingerprint of the student's tokenizer: start "
    "the expert with that tokenizer and fingerprint; for a model with another tokenizer use "
    "`preceptor_services.experts.remote.aligned.aligning:Aligning`"
)


def check_query(query: PrefixQuery, capabilities: Capabilities, expert: str = "the expert") -> None:
    """Refuses a query that the expert cannot answer, before anything is queued or computed.

    Args:
        query: The query.
        capabilities: The expert's declared capabilities.
        expert: Name of the expert in the messages.

    Raises:
        VocabularyMismatch: the query's vocabulary is not the expert's.
        ContextTooLong: prompt and response together exceed the expert's context.
        Invalid: an id outside the vocabulary, a top_k above the expert's, or candidates that the
            expert does not score.
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
            f"prompt and response have {length} tokens, the expert takes at most "
            f"{capabilities.max_context}",
            field="response_ids",
        )
    if capabilities.max_top_k is not None and query.top_k > capabilities.max_top_k:
        raise Invalid(
            f"{query.top_k} is above the expert's limit of {capabilities.max_top_k}", field="top_k"
        )
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
