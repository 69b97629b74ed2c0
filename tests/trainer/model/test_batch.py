import numpy as np
import pytest
import torch

from preceptor_trainer.model.batch import KINDS, collate, make_batches
from preceptor_trainer.model.statistics import ABSENT


def test_predictor_is_the_position_just_before_each_response_token(make_rollout):
    rollouts = [
        make_rollout("a", (7, 8), prompt_ids=(1, 2, 3)),
        make_rollout("b", (9, 5, 6), prompt_ids=(4,)),
    ]

    batch = collate(rollouts)

    assert batch.predictor_BT.tolist() == [[2, 3, 0], [0, 1, 2]]
    row, t = batch.response_mask_BT.nonzero(as_tuple=True)
    predicted = batch.input_ids_BL[row, batch.predictor_BT[row, t] + 1]
    assert torch.equal(predicted, batch.response_ids_BT[row, t])


def test_components_are_padded_apart_and_empty_cells_say_so(make_component, make_rollout):
    wide = make_component([[1, 2, 0], [0, 1, 2]], [[0.5, 0.3, 0.1], [0.6, 0.2, 0.2]])
    point = make_component([[2], [-1]], [[1.0], [0.0]], weight_T=[0.25, 0.0], kind="point")

    batch = collate([make_rollout("a", (0, 1), [wide, point]), make_rollout("b", (0, 1, 2))])

    targets = batch.targets
    assert targets.ids_BTEK.shape == (2, 3, 2, 3)
    assert targets.ids_BTEK[0, 0].tolist() == [[1, 2, 0], [2, -1, -1]]
    assert targets.weight_BTE[0].tolist() == [[1, 0.25], [1, 0], [0, 0]]
    assert targets.own_logprobs_BTE[1].unique().tolist() == [ABSENT]
    assert targets.kind_BE.tolist() == [[KINDS.index("topk"), KINDS.index("point")], [-1, -1]]
    assert batch.has_teacher_B.tolist() == [True, False]


def test_every_rollout_is_in_exactly_one_batch_within_the_budget(make_rollout):
    rng = np.random.default_rng(0)
    rollouts = [
        make_rollout(str(i), [0] * int(rng.integers(1, 20)), group=i // 4) for i in range(40)
    ]

    batches = make_batches(rollouts, token_budget=64)

    names = [name for batch in batches for name in batch.rollout_ids]
    assert sorted(names) == sorted(r.rollout_id for r in rollouts)
    assert all(batch.input_ids_BL.numel() <= 64 for batch in batches)


def test_a_group_that_fits_stays_whole(make_rollout):
    rollouts = [make_rollout(str(i), [0] * (1 + i % 3), group=i % 5) for i in range(20)]

    batches = make_batches(rollouts, token_budget=40)

    homes = [set(batch.group_B.tolist()) for batch in batches]
    assert len(batches) > 1
    assert sum(map(len, homes)) == 5


def test_a_group_beyond_the_budget_is_split_and_a_long_row_stands_alone(make_rollout):
    rollouts = [make_rollout(str(i), [0] * 5) for i in range(4)]
    rollouts.append(make_rollout("long", [0] * 100))

    batches = make_batches(rollouts, token_budget=12)

    assert [batch.rollout_ids for batch in batches] == [("long",), ("0", "1"), ("2", "3")]


def test_batches_do_not_depend_on_the_order_within_a_step(make_rollout):
    rollouts = [make_rollout(str(i), [0] * (1 + i), group=i) for i in range(8)]

    there = make_batches(rollouts, token_budget=24)
    back = make_batches(rollouts[::-1], token_budget=24)

    assert [b.rollout_ids for b in there] == [b.rollout_ids for b in back]


def test_unknown_behaviour_logprob_is_masked(make_rollout):
    known = np.array([-0.5, np.nan], np.float32)

    batch = collate([make_rollout("a", behaviour_logprobs=known), make_rollout("b")])

    assert batch.behaviour_mask_BT.tolist() == [[True, False], [False, False]]
    assert torch.isfinite(batch.behaviour_logprobs_BT).all()


def test_unowned_tokens_are_not_labelled(make_labelled):
    batch = collate([make_labelled(owned=[True, False, True, True])])

    assert batch.labelled_BT.tolist() == [[True, False, True, True]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt_ids": ()}, "prompt_ids of rollout 'r' is empty"),
        ({"response_ids": ()}, "response_ids of rollout 'r' is empty"),
        ({"owned": [True]}, "owned of rollout 'r' has shape"),
        ({"inclusion_probability": np.array([1.0, 0.0])}, "inclusion_probability of rollout 'r'"),
    ],
)
def test_impossible_rollouts_are_refused_by_field(make_rollout, fields, message):
    with pytest.raises(ValueError, match=message):
        make_rollout(**fields)


def test_a_target_of_another_length_is_refused(make_component, make_rollout):
    short = make_component([[0]], [[1.0]])

    with pytest.raises(ValueError, match="ids_TK of the target of rollout 'r' has 1 positions"):
        collate([make_rollout("r", (0, 1), [short], candidate_ids_TC=np.zeros((2, 0)))])


def test_a_target_of_another_rollout_is_refused(make_labelled):
    from dataclasses import replace

    with pytest.raises(ValueError, match="target of rollout 'b' belongs to 'a'"):
        replace(make_labelled("a"), rollout_id="b")
