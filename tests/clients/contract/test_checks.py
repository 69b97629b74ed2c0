"""The answer check refuses every answer that cannot be right, and names the reason."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from preceptor_clients.contract.arrays import MISSING
from preceptor_clients.contract.checks import all_pass, check_answer, check_feedback, check_query
from preceptor_clients.contract.errors import (
    AnswerRefused,
    ContextTooLong,
    Invalid,
    PreceptorError,
    VocabularyMismatch,
)
from preceptor_clients.contract.schemas import (
    Capabilities,
    FeedbackAnswer,
    FeedbackItem,
    FeedbackQuery,
    PrefixAnswer,
    PrefixQuery,
    Prompt,
    WantedWeights,
)
from preceptor_clients.sdk.answers import Distributions, build_answer

from ..honest import VOCAB
from .corruptions import CANDIDATES, CORRUPTIONS

CAPABILITIES = Capabilities(vocab_size=VOCAB, candidates=True)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corrupted_answer_is_refused_by_its_own_check(name, make_query, make_answer):
    check, change = CORRUPTIONS[name]
    query = make_query(candidate_ids=CANDIDATES)
    honest = make_answer(query)
    check_answer(query, honest, CAPABILITIES)

    with pytest.raises(AnswerRefused) as refused:
        check_answer(query, honest.model_copy(update=change(honest)), CAPABILITIES)

    assert refused.value.check == check


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_one_corrupted_answer_among_others_is_noticed(name, make_query, make_answer):
    query = make_query(candidate_ids=CANDIDATES)
    answer = make_answer(query)
    _, change = CORRUPTIONS[name]
    wrong = answer.model_copy(update=change(answer))

    sound = [(query, answer), (other := make_query(), make_answer(other)), (query, answer)]

    assert all_pass(sound, CAPABILITIES)
    for place in range(3):
        assert not all_pass([*sound[:place], (query, wrong), *sound[place:]], CAPABILITIES)


def test_more_entries_than_asked_are_refused(make_query, make_answer):
    answer = make_answer(make_query(top_k=5))

    with pytest.raises(AnswerRefused, match="is above top_k = 4"):
        check_answer(make_query(top_k=4), answer, CAPABILITIES)


def test_answers_swapped_within_a_batch_are_refused(make_query, make_answer):
    one, other = make_query([1, 2, 3]), make_query([3, 2, 1])

    with pytest.raises(AnswerRefused, match="token_ids_P"):
        check_answer(one, make_answer(other), CAPABILITIES)


@pytest.mark.parametrize(
    ("wanted", "fits", "does_not"),
    [
        (WantedWeights(mode="exact", version="p/l/3"), "p/l/3", "p/l/2"),
        (WantedWeights(mode="at_least", version="p/l/3"), "p/m/4", "q/l/3"),
        (WantedWeights(mode="latest", policy="p"), "p/l/1", "q/l/1"),
        (WantedWeights(mode="latest", policy="p"), "p/l/1", None),
    ],
)
def test_stale_or_foreign_weights_are_refused(wanted, fits, does_not, make_query, make_answer):
    query = make_query(weights=wanted)
    capabilities = Capabilities(weights=True)
    answered = make_answer(query)

    def said(version: str | None) -> PrefixAnswer:
        return answered.model_copy(update={"weights_before": version, "weights_after": version})

    check_answer(query, said(fits), capabilities)
    with pytest.raises(AnswerRefused, match="weights"):
        check_answer(query, said(does_not), capabilities)


def test_an_expert_that_needs_feedback_may_only_abstain_without(make_query, make_distributions):
    query, capabilities = make_query(), Capabilities(needs_feedback=True)

    def said(mask: bool) -> PrefixAnswer:
        return build_answer(
            query,
            make_distributions(query),
            expert="e",
            expert_version="1",
            mask_P=np.full(query.num_positions, mask),
        )

    check_answer(query, said(False), capabilities)
    with pytest.raises(AnswerRefused, match="used_feedback"):
        check_answer(query, said(True), capabilities)


def test_an_own_token_outside_the_entries_cannot_beat_the_last_of_them(
    make_query, make_distributions
):
    query = make_query([0])
    honest = make_distributions(query)
    token = next(i for i in range(VOCAB) if i not in honest.ids_PK[0])
    query = make_query([token])

    def said(own: float) -> PrefixAnswer:
        distributions = replace(honest, own_logprobs_P=np.array([own]))
        return build_answer(query, distributions, expert="e", expert_version="1")

    check_answer(query, said(-9.0), CAPABILITIES)
    with pytest.raises(AnswerRefused, match="own_logprobs_P"):
        check_answer(query, said(-0.1), CAPABILITIES)


@pytest.mark.parametrize(
    ("fields", "error", "field"),
    [
        ({"vocab_fingerprint": "cd" * 32}, VocabularyMismatch, "vocab_fingerprint"),
        ({"response_ids": np.array([VOCAB])}, Invalid, "response_ids"),
        ({"prompt": Prompt(ids=np.array([VOCAB]))}, Invalid, "prompt.ids"),
        ({"candidate_ids": np.full((5, 1), VOCAB)}, Invalid, "candidate_ids"),
        ({"top_k": 9}, Invalid, "top_k"),
        ({"response_ids": np.ones(15, np.int32)}, ContextTooLong, "response_ids"),
    ],
)
def test_a_query_the_expert_cannot_answer_is_refused(fields, error, field, make_query):
    capabilities = Capabilities(
        vocab_fingerprint="ab" * 32, vocab_size=VOCAB, max_top_k=8, max_context=16, candidates=True
    )
    check_query(make_query(), capabilities)

    with pytest.raises(error) as refused:
        check_query(make_query(**fields), capabilities)

    assert [e.field for e in refused.value.errors] == [field]


def test_candidates_are_refused_where_they_are_not_scored(make_query):
    query: PrefixQuery = make_query(candidate_ids=CANDIDATES)

    with pytest.raises(PreceptorError, match="no candidates"):
        check_query(query, Capabilities())


FEEDBACK_QUERY = FeedbackQuery(
    rollout_id="r",
    prompt=Prompt(ids=np.array([1])),
    response_ids=np.array([1]),
    response_text="x",
    finish_reason="stop",
    payload_sha256="0" * 64,
)


@pytest.mark.parametrize(
    "items",
    [
        [{"id": "a", "score": 1.0}, {"id": "a", "score": 0.0}],
        [{"id": "a", "score": 0.0, "error": "the judge timed out"}],
        [{"id": "a"}],
    ],
    ids=["an id twice", "a failure with a score", "an item that says nothing"],
)
def test_feedback_that_cannot_be_right_is_refused(items):
    answer = FeedbackAnswer(
        items=tuple(FeedbackItem(kind="judge", source="s", version="1", **item) for item in items),
        source="s",
        source_version="1",
    )

    with pytest.raises(AnswerRefused, match="items"):
        check_feedback(FEEDBACK_QUERY, answer)


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"cost": -1.0}, "cost"),
        ({"cost": 1e12}, "cost"),
        ({"latency_ms": -5.0}, "latency_ms"),
        ({"num_draws": 0}, "num_draws"),
        ({"num_draws": 10**30}, "num_draws"),
        ({"inclusion_P": np.full(3, 0.5, np.float32)}, "inclusion_P"),
    ],
)
def test_what_an_answer_says_of_itself_is_checked(change, check, make_query, make_answer):
    query = make_query()
    answer = make_answer(query)
    change = {
        k: np.full(query.num_positions, 0.5, np.float32) if k == "inclusion_P" else v
        for k, v in change.items()
    }

    with pytest.raises(AnswerRefused) as refused:
        check_answer(query, answer.model_copy(update=change), CAPABILITIES)

    assert refused.value.check == check


def test_chances_are_taken_from_an_expert_that_draws_positions(make_query, make_answer):
    query = make_query()
    chances = np.full(query.num_positions, 0.5, np.float32)
    answer = make_answer(query).model_copy(update={"inclusion_P": chances})

    check_answer(query, answer, CAPABILITIES.model_copy(update={"draws_positions": True}))


def without_a_best_entry(answer: PrefixAnswer, missing: float) -> PrefixAnswer:
    """Rows whose entries leave out one of this mass; the others share the rest."""
    P, K = answer.ids_PK.shape
    each = np.full(K, (1 - missing) / (CAPABILITIES.vocab_size or 0))
    logprobs = np.tile(np.log(each).astype(np.float32), (P, 1))
    mass = np.exp(logprobs.astype(np.float64)).sum(1)
    return answer.model_copy(
        update={
            "logprobs_PK": logprobs,
            "tail_P": (1 - mass).astype(np.float32),
            "own_logprobs_P": logprobs[:, 0],
        }
    )


def with_own_hidden(answer: PrefixAnswer) -> PrefixAnswer:
    P = len(answer.mask_P)
    hidden = {"own_mask_P": np.zeros(P, bool), "own_logprobs_P": np.full(P, MISSING, np.float32)}
    return answer.model_copy(update=hidden)


@pytest.mark.parametrize("missing", [0.9, 0.15])
@pytest.mark.parametrize("hide", [with_own_hidden, lambda answer: answer], ids=["hidden", "known"])
def test_a_missing_best_entry_shows_in_the_tail(make_query, make_answer, hide, missing):
    query = make_query()
    answer = hide(without_a_best_entry(make_answer(query), missing))

    with pytest.raises(AnswerRefused, match="one of the best entries is missing"):
        check_answer(query, answer, CAPABILITIES)


@pytest.mark.parametrize(
    "declared", [{"partial_entries": True}, {"head_size": (CAPABILITIES.vocab_size or 0) + 64}]
)
def test_mass_outside_the_entries_passes_where_the_expert_declares_why(
    make_query, make_answer, declared
):
    query = make_query()
    answer = with_own_hidden(without_a_best_entry(make_answer(query), 0.15))

    check_answer(query, answer, CAPABILITIES.model_copy(update=declared))


@pytest.mark.parametrize("num_entries", [1, 64, 200, 255, 256])
def test_a_uniform_row_passes_however_many_of_its_entries_are_sent(
    num_entries: int, make_query: Callable[..., PrefixQuery]
) -> None:
    vocab = 256
    query = make_query((3, 1), top_k=num_entries, candidate_ids=None)
    even = np.full((2, vocab), -np.log(vocab), np.float32)
    ids = np.tile(np.arange(vocab, dtype=np.int32), (2, 1))
    distributions = Distributions(
        ids_PK=ids[:, :num_entries],
        logprobs_PK=even[:, :num_entries],
        own_logprobs_P=even[:, 0],
    )

    answer = build_answer(query, distributions, expert="e", expert_version="1")

    check_answer(query, answer, Capabilities(max_top_k=256, vocab_size=vocab, max_context=64))


def test_a_vocabulary_mismatch_names_the_expert_and_the_command_that_mends_it(
    make_query: Any,
) -> None:
    capabilities = Capabilities(vocab_fingerprint="cd" * 32)

    with pytest.raises(VocabularyMismatch) as refused:
        check_query(make_query(), capabilities, "expert big-teacher")

    assert "the vocabulary of expert big-teacher is cdcdcd" in refused.value.detail
    assert "`preceptor expert vocabulary FOLDER`" in refused.value.detail


def test_an_answer_without_entries_and_without_opinion_passes(make_query, make_answer):
    query = make_query()
    answer, P = make_answer(query), query.num_positions
    nothing = np.zeros(P, bool)
    silent = answer.model_copy(
        update={
            "mask_P": nothing,
            "own_mask_P": nothing,
            "num_entries_P": np.zeros(P, np.int32),
            "ids_PK": np.zeros((P, 0), np.int32),
            "logprobs_PK": np.zeros((P, 0), np.float32),
            "candidate_logprobs_PC": None,
            "candidate_mask_PC": None,
        }
    )

    check_answer(query, silent, CAPABILITIES)
