import pytest
import torch

from preceptor_trainer.model.credit import baselines, future_costs, independence, peers

COST = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
ALL = torch.ones(1, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [14, 12, 8, 0]),
        ({"gamma": 0.5}, [6, 8, 8, 0]),
        ({"normaliser": "remaining"}, [14 / 3, 6, 8, 0]),
        ({"normaliser": 2.0}, [7, 6, 4, 0]),
        ({"credit": "all"}, [15, 15, 15, 15]),
    ],
)
def test_costs_to_go(options, expected):
    future = future_costs(COST, ALL, **options)

    torch.testing.assert_close(future, torch.tensor([expected], dtype=torch.float32))


def test_masked_costs_reach_nobody_whatever_they_are():
    cost = torch.tensor([[1.0, float("inf"), 4.0, float("nan")]])
    mask = torch.tensor([[True, False, True, False]])

    assert future_costs(cost, mask).tolist() == [[4, 4, 0, 0]]
    assert future_costs(cost, mask, normaliser="remaining").tolist() == [[4, 4, 0, 0]]
    assert future_costs(cost, mask, credit="all").tolist() == [[5, 5, 5, 5]]


@pytest.mark.parametrize(
    "options", [{}, {"gamma": 0.5}, {"normaliser": "remaining"}, {"credit": "all"}]
)
def test_costs_to_go_pass_over_what_the_student_read_between_two_turns(options):
    cost = torch.tensor([[1.0, 2.0, 100.0, 100.0, 100.0, 4.0, 8.0]])
    owned = torch.tensor([[True, True, False, False, False, True, True]])

    future = future_costs(cost, owned, owned_BT=owned, **options)

    torch.testing.assert_close(future[owned][None], future_costs(COST, ALL, **options))


def test_padding_changes_no_cost_to_go():
    padded = torch.nn.functional.pad(COST, (0, 3), value=100.0)
    mask = torch.nn.functional.pad(ALL, (0, 3))

    for options in ({}, {"gamma": 0.9}, {"normaliser": "remaining"}, {"credit": "all"}):
        torch.testing.assert_close(
            future_costs(padded, mask, **options)[:, :4], future_costs(COST, ALL, **options)
        )


def test_costs_to_go_carry_no_gradient():
    assert not future_costs(COST.clone().requires_grad_(), ALL).requires_grad


def test_baseline_is_the_mean_of_the_others_still_alive():
    future = torch.tensor([[9.0, 9.0, 9.0], [1.0, 2.0, 3.0], [3.0, 5.0, 7.0]])
    alive = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    everyone = ~torch.eye(3, dtype=torch.bool)

    baseline = baselines(future, alive, everyone)

    assert baseline.tolist() == [[2, 2, 0], [6, 9, 9], [5, 5.5, 9]]


def _peers(group, eligible, labelled, gap):
    to_bool = lambda rows: torch.tensor(rows, dtype=torch.bool)  # noqa: E731
    return peers(torch.tensor(group), to_bool(eligible), to_bool(labelled), to_bool(gap)).tolist()


def test_only_eligible_rollouts_of_the_same_group_are_peers():
    labelled = [[1], [1], [1], [1]]

    result = _peers([0, 0, 1, 0], [1, 1, 1, 0], labelled, [[0]] * 4)

    assert result == [
        [False, True, False, False],
        [True, False, False, False],
        [False, False, False, False],
        [False, False, False, False],
    ]


def test_rollouts_with_different_label_masks_are_no_peers():
    labelled = [[1, 1, 0], [1, 0, 0], [1, 1, 1]]
    gap = [[0, 0, 0], [0, 1, 0], [0, 0, 0]]

    result = _peers([0, 0, 0], [1, 1, 1], labelled, gap)

    assert result == [[False, False, True], [False, False, False], [True, False, False]]


def test_length_and_ownership_alone_do_not_part_peers():
    labelled = [[1, 0, 1, 0], [1, 1, 0, 0]]

    assert _peers([0, 0], [1, 1], labelled, [[0] * 4] * 2) == [[False, True], [True, False]]


def test_a_sibling_whose_target_used_this_rollout_is_not_independent_of_it():
    mask = independence(["a", "b"], [frozenset(), frozenset({"a"})])

    assert mask.tolist() == [[True, False], [True, True]]
