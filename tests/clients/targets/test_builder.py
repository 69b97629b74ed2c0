"""Weights of a target sum to one where somebody has an opinion, and are zero elsewhere."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from preceptor_clients.contract import frame
from preceptor_clients.contract.arrays import MISSING
from preceptor_clients.sdk.answers import Distributions, build_answer
from preceptor_clients.targets.builder import Target, WeightedAnswer, build_target, inclusion
from preceptor_clients.targets.token_weights import Certainty


@st.composite
def opinions(draw, make_query, make_distributions):
    """Owned tokens and one to three experts' answers with masks, positions and weights."""
    T = draw(st.integers(1, 8))
    flags = st.lists(st.booleans(), min_size=T, max_size=T)
    owned = np.array(draw(flags))
    answers = []
    for index in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, T - 1))
        positions = draw(st.sampled_from([None, ((start, draw(st.integers(start + 1, T))),)]))
        query = make_query(np.arange(T), positions=positions)
        mask = np.array(draw(flags))[query.position_ids()]
        answer = build_answer(
            query,
            make_distributions(query, seed=index),
            expert=f"e{index}",
            expert_version="1",
            mask_P=mask,
        )
        answers.append(WeightedAnswer(f"a{index}", query, answer, draw(st.floats(0.1, 10))))
    return owned, answers


@given(st.data())
def test_weights_sum_to_one_where_labelled_and_are_zero_elsewhere(
    make_query, make_distributions, data
):
    owned, answers = data.draw(opinions(make_query, make_distributions))

    target = build_target("r", owned, answers)

    weights = np.stack([c.weight_T for c in target.components])
    labelled = np.zeros(len(owned), np.bool_)
    for item in answers:
        labelled[item.query.position_ids()[item.answer.mask_P]] = True
    labelled &= owned
    np.testing.assert_array_equal(target.labelled_T(), labelled)
    np.testing.assert_allclose(weights.sum(0), labelled.astype(np.float32), atol=1e-6)
    assert (weights[:, ~owned] == 0).all()
    assert [c.expert for c in target.components] == [a.answer.expert for a in answers]


@given(st.data())
def test_a_missing_experts_weight_is_filled_by_the_others_in_proportion(
    make_query, make_distributions, data
):
    owned, answers = data.draw(opinions(make_query, make_distributions))
    assume(len(answers) == 3)

    whole = build_target("r", owned, answers)
    left = build_target("r", owned, answers[:2])

    both = (whole.components[0].weight_T > 0) & (whole.components[1].weight_T > 0)
    ratio = whole.components[0].weight_T[both] / whole.components[1].weight_T[both]
    np.testing.assert_allclose(
        left.components[0].weight_T[both] / left.components[1].weight_T[both], ratio, rtol=1e-5
    )


@given(st.data())
def test_entries_stand_at_their_positions_with_their_tails(make_query, make_distributions, data):
    owned, answers = data.draw(opinions(make_query, make_distributions))

    target = build_target("r", owned, answers)

    for item, component in zip(answers, target.components, strict=True):
        at = item.query.position_ids()
        opinion = item.answer.mask_P
        mass = component.probs_TK.sum(1) + component.tail_T
        np.testing.assert_allclose(mass[at[opinion]], 1.0, atol=1e-5)
        elsewhere = np.setdiff1d(np.arange(len(owned)), at[opinion])
        assert (component.ids_TK[elsewhere] == -1).all()
        assert (component.probs_TK[elsewhere] == 0).all()
        assert (component.own_logprobs_T[elsewhere] == MISSING).all()
        np.testing.assert_array_equal(
            component.own_logprobs_T[at[opinion]], item.answer.own_logprobs_P[opinion]
        )


def test_a_target_survives_its_wire_form_with_the_same_id(make_query, make_answer):
    query = make_query(candidate_ids=np.arange(5, dtype=np.int32)[:, None])
    answers = [WeightedAnswer("a", query, make_answer(query), 2.0)]
    target = build_target("r", np.ones(5, np.bool_), answers)

    again = Target.from_wire("r", frame.decode(frame.encode(target.to_wire())))

    assert again.id == target.id
    assert again.components[0].weight_T.tolist() == [1.0] * 5
    assert again.components[0].inclusion_T is None


def test_chances_of_being_asked_stay_with_their_component(make_query, make_answer):
    query = make_query([5, 6, 7], positions=((0, 2),))
    drawn = make_answer(query).model_copy(update={"inclusion_P": np.array([0.5, 0.25], np.float32)})
    target = build_target("r", np.ones(3, np.bool_), [WeightedAnswer("a", query, drawn, 1.0)])

    again = Target.from_wire("r", frame.decode(frame.encode(target.to_wire())))

    assert again.id == target.id
    assert again.components[0].inclusion_T.tolist() == [0.5, 0.25, 0.0]


def test_candidates_keep_ids_values_and_masks(make_query, make_answer):
    candidates = np.array([[0, 1], [2, -1]], np.int32)
    query = make_query([5, 6, 7, 8], positions=((1, 3),), candidate_ids=candidates)
    answer = make_answer(query)

    target = build_target("r", np.ones(4, np.bool_), [WeightedAnswer("a", query, answer, 1.0)])

    assert target.candidate_ids_TC.tolist() == [[-1, -1], [0, 1], [2, -1], [-1, -1]]
    component = target.components[0]
    assert component.candidate_mask_TC.tolist() == [
        [False, False], [True, True], [True, False], [False, False],
    ]  # fmt: skip
    np.testing.assert_array_equal(
        component.candidate_logprobs_TC[1:3], answer.candidate_logprobs_PC
    )


def test_the_same_answers_give_the_same_id_and_others_another(make_query, make_answer):
    query, owned = make_query(), np.ones(5, np.bool_)

    def id_of(seed: int, weight: float, rollout: str = "r") -> str:
        item = WeightedAnswer("a", query, make_answer(query, seed=seed), weight)
        return build_target(rollout, owned, [item]).id

    assert id_of(0, 1.0) == id_of(0, 1.0)
    assert len({id_of(0, 1.0), id_of(1, 1.0), id_of(0, 1.0, "other")}) == 3


def test_no_answers_a_weight_of_zero_and_another_response_are_refused(make_query, make_answer):
    query = make_query()
    answer = make_answer(query)

    with pytest.raises(ValueError, match="without a teacher"):
        build_target("r", np.ones(5, np.bool_), [])
    with pytest.raises(ValueError, match="expected a value above 0"):
        build_target("r", np.ones(5, np.bool_), [WeightedAnswer("a", query, answer, 0.0)])
    with pytest.raises(ValueError, match="another response"):
        build_target("r", np.ones(6, np.bool_), [WeightedAnswer("a", query, answer, 1.0)])


def test_a_position_counts_by_the_chance_that_anybody_was_asked(make_query, make_distributions):
    def answer(index, mask, chances=None, positions=None):
        query = make_query(np.arange(4), positions=positions)
        reply = build_answer(
            query,
            make_distributions(query, seed=index),
            expert=f"e{index}",
            expert_version="1",
            mask_P=np.array(mask),
            inclusion_P=None if chances is None else np.array(chances, np.float32),
        )
        return WeightedAnswer(f"a{index}", query, reply, 1.0)

    drawn = answer(0, [False, True, False, False], [0.5, 0.5, 0.25, 1.0])
    other = answer(1, [False, False], [0.5, 0.4], positions=((1, 3),))
    everywhere = answer(2, [True, False, False, True])

    assert inclusion(4, [everywhere]) is None
    np.testing.assert_allclose(inclusion(4, [drawn]), [0.5, 0.5, 0.25, 1.0])
    np.testing.assert_allclose(inclusion(4, [drawn, other]), [0.5, 0.75, 0.55, 1.0])
    np.testing.assert_allclose(inclusion(4, [other]), [1.0, 0.5, 0.4, 1.0])
    np.testing.assert_allclose(inclusion(4, [drawn, everywhere]), [1.0, 0.5, 0.25, 1.0])


def test_in_a_mixture_each_position_has_its_own_weights_and_components_stay_apart(
    make_query, make_distributions
):
    query = make_query(np.arange(3))
    answers = [
        build_answer(query, make_distributions(query, seed=i), expert=f"e{i}", expert_version="1")
        for i in range(2)
    ]
    owned = np.ones(3, np.bool_)
    per_token = np.array([2.0, 0.0, 6.0])

    target = build_target(
        "r",
        owned,
        [
            WeightedAnswer("a0", query, answers[0], per_token),
            WeightedAnswer("a1", query, answers[1], 2.0),
        ],
    )

    np.testing.assert_allclose(target.components[0].weight_T, [0.5, 0.0, 0.75])
    np.testing.assert_allclose(target.components[1].weight_T, [0.5, 1.0, 0.25])
    assert [c.expert for c in target.components] == ["e0", "e1"]
    with pytest.raises(ValueError, match="weights of e0 have shape"):
        build_target("r", owned, [WeightedAnswer("a0", query, answers[0], per_token[:2])])
    with pytest.raises(ValueError, match="expected finite values >= 0"):
        build_target("r", owned, [WeightedAnswer("a0", query, answers[0], -per_token)])


def test_a_certain_expert_counts_more_than_one_that_does_not_know(make_query):
    query = make_query(np.arange(3))
    mask = np.array([True, True, False])
    distributions = Distributions(
        ids_PK=np.array([[0, 1, 2, 3]] * 3),
        logprobs_PK=np.log([[0.97, 0.01, 0.01, 0.01], [0.25] * 4, [0.25] * 4]),
        own_logprobs_P=None,
    )
    answer = build_answer(
        query, distributions, expert="e", expert_version="1", mask_P=mask, exact=True
    )

    weights = Certainty(scale=2.0)(query, answer)

    entropy = -(0.97 * np.log(0.97) + 0.03 * np.log(0.01))
    np.testing.assert_allclose(weights[:2], [np.exp(-entropy / 2), 0.5], rtol=1e-5)
    with pytest.raises(ValueError, match=r"scale: 0\.0"):
        Certainty(scale=0.0)
