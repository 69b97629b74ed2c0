"""An answer built by the SDK passes the answer check, whatever the model says."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor_clients.contract import wire
from preceptor_clients.contract.arrays import MISSING
from preceptor_clients.contract.checks import check_answer
from preceptor_clients.contract.errors import AnswerRefused
from preceptor_clients.contract.schemas import Capabilities, PrefixAnswer, PrefixQuery
from preceptor_clients.sdk.answers import Distributions, build_answer, rounded


def decoded(answer: PrefixAnswer) -> PrefixAnswer:
    return wire.parse(PrefixAnswer, wire.render(answer), wire.FRAME)


@st.composite
def asked(
    draw: st.DrawFn, make_query: Callable[..., PrefixQuery]
) -> tuple[PrefixQuery, np.ndarray]:
    """A query about a random response, and log-probs `[P, V]` of random sharpness."""
    vocab = draw(st.integers(2, 40))
    T = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.normal(size=(T, vocab)) * draw(st.sampled_from([0.0, 0.1, 1.0, 10.0, 100.0]))
    logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    candidates = rng.integers(-1, vocab, (T, draw(st.integers(1, 3)))).astype(np.int32)
    query = make_query(
        rng.integers(0, vocab, T),
        top_k=draw(st.integers(1, vocab)),
        candidate_ids=draw(st.sampled_from([None, candidates])),
    )
    return query, logprobs.astype(draw(st.sampled_from([np.float32, np.float64])))


def top_k(query: PrefixQuery, logprobs_PV: np.ndarray) -> Distributions:
    ids = np.argsort(-logprobs_PV, axis=1, kind="stable")[:, : query.top_k]
    rows = np.arange(len(logprobs_PV))
    wanted = query.candidate_ids
    return Distributions(
        ids_PK=ids,
        logprobs_PK=np.take_along_axis(logprobs_PV, ids, 1),
        own_logprobs_P=logprobs_PV[rows, query.response_ids],
        candidate_logprobs_PC=None
        if wanted is None
        else logprobs_PV[rows[:, None], np.maximum(wanted, 0)],
    )


@given(st.data(), st.booleans())
def test_a_built_answer_passes_the_check_and_its_mass_is_one(make_query, data, exact):
    query, logprobs = data.draw(asked(make_query))
    mask = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(logprobs), max_size=len(logprobs)))
    )

    answer = decoded(
        build_answer(
            query,
            top_k(query, logprobs),
            expert="e",
            expert_version="1",
            mask_P=mask,
            exact=exact,
        )
    )

    check_answer(query, answer, Capabilities(vocab_size=logprobs.shape[1]))
    mass = np.where(answer.filled_PK(), np.exp(answer.logprobs_PK.astype(np.float64)), 0).sum(1)
    np.testing.assert_allclose((mass + answer.tail_P)[mask], 1.0, atol=1e-5)
    assert (answer.own_mask_P == mask).all()
    assert (answer.logprobs_PK[~answer.filled_PK()] == MISSING).all()


@given(st.data())
def test_rounding_an_exact_answer_gives_one_that_passes_too(make_query, data):
    query, logprobs = data.draw(asked(make_query))
    distributions = top_k(query, logprobs)
    exact = build_answer(query, distributions, expert="e", expert_version="1", exact=True)

    answer = decoded(rounded(exact))

    check_answer(query, answer, Capabilities())
    assert rounded(answer) is answer
    np.testing.assert_allclose(answer.logprobs_PK, np.maximum(exact.logprobs_PK, -32), atol=1.1e-3)


def test_rounding_makes_no_certainty_of_a_candidate_above_zero(make_query, make_answer):
    query = make_query(candidate_ids=np.full((5, 1), 3))
    answer = make_answer(query)
    above = np.full_like(answer.candidate_logprobs_PC, 0.2)

    with pytest.raises(AnswerRefused, match="candidate_logprobs_PC"):
        rounded(answer.model_copy(update={"candidate_logprobs_PC": above}))


def test_a_row_that_rounding_lifted_above_one_is_scaled_back_and_flagged(make_query):
    query = make_query([0])
    third = np.log(np.array([[1 / 3, 1 / 3, 1 / 3 + 1e-9]]))
    distributions = Distributions(
        ids_PK=np.array([[0, 1, 2]]), logprobs_PK=third + 2e-4, own_logprobs_P=third[:, 0]
    )

    answer = build_answer(query, distributions, expert="e", expert_version="1", exact=True)

    assert answer.renormalised_P is not None
    assert answer.renormalised_P.tolist() == [True]
    np.testing.assert_allclose(np.exp(answer.logprobs_PK).sum(1) + answer.tail_P, 1, atol=1e-6)
    check_answer(query, answer, Capabilities())


def test_entries_of_no_probability_are_left_out(make_query):
    query = make_query([0])
    distributions = Distributions(
        ids_PK=np.array([[0, 1]]),
        logprobs_PK=np.array([[0.0, -np.inf]]),
        own_logprobs_P=np.array([0.0]),
    )

    answer = build_answer(query, distributions, expert="e", expert_version="1")

    assert answer.num_entries_P.tolist() == [1]
    assert answer.ids_PK.tolist() == [[0, -1]]
    check_answer(query, answer, Capabilities())


def test_without_the_own_tokens_logprob_its_mask_is_false(make_query):
    query = make_query([0, 1])
    distributions = Distributions(
        ids_PK=np.array([[0], [1]]), logprobs_PK=np.full((2, 1), -1.0), own_logprobs_P=None
    )

    answer = build_answer(query, distributions, expert="e", expert_version="1")

    assert not answer.own_mask_P.any()
    assert (answer.own_logprobs_P == MISSING).all()
