"""Rewards of a group against each other, the over-length penalty, and what a step is divided by.

All expected numbers are worked by hand.
"""

from math import sqrt

import pytest
import torch

from preceptor_trainer.model.batch import collate
from preceptor_trainer.model.heads.dense import student_statistics
from preceptor_trainer.objectives.group_rewards import SoftOverlong
from preceptor_trainer.objectives.grpo import GRPO
from preceptor_trainer.theory.enumeration import PrefixTable, TinyWorld

pytestmark = pytest.mark.usefixtures("one_thread")


def responses(make_rollout, *told):
    """One batch of (group, length, reward), written by a policy without preferences."""
    rollouts = [
        make_rollout(str(i), (0,) * length, group=group, reward=reward)
        for i, (group, length, reward) in enumerate(told)
    ]
    batch = collate(rollouts)
    world = TinyWorld(num_tokens=2, horizon=4)
    policy = PrefixTable(torch.zeros(world.num_prefixes, 2, dtype=torch.float64))
    return batch, policy


def advantages_of(objective, batch, policy):
    """Each rollout's advantage, read at its first token."""
    stats = student_statistics(policy, batch, objective.needs)
    (advantages,) = objective.advantages([stats], [batch])
    return advantages.advantage_BT[:, 0].tolist()


@pytest.mark.parametrize(
    ("length", "penalty"),
    [
        (1, 0.0),
        (6, 0.0),  # the last token before the buffer
        (7, -0.25),
        (8, -0.5),
        (9, -0.75),
        (10, -1.0),  # the longest allowed
        (11, -1.0),
        (1000, -1.0),
    ],
)
def test_the_penalty_grows_over_the_buffer_from_0_to_1(length, penalty):
    overlong = SoftOverlong(max_length=10, buffer=4)

    assert overlong.penalty(torch.tensor([length])).tolist() == [penalty]


def test_a_buffer_as_long_as_the_response_may_be_charges_from_the_first_token():
    overlong = SoftOverlong(max_length=4, buffer=4)

    assert overlong.penalty(torch.tensor([1, 2, 4])).tolist() == [-0.25, -0.5, -1.0]


def test_the_penalty_is_taken_off_before_rewards_are_compared(make_rollout):
    batch, policy = responses(make_rollout, (0, 2, 1.0), (0, 3, 1.0), (0, 4, 0.0))
    overlong = SoftOverlong(max_length=4, buffer=2)

    plain = advantages_of(GRPO(std=False, overlong=overlong), batch, policy)
    scaled = advantages_of(GRPO(overlong=overlong), batch, policy)

    # 1 - 0, 1 - 1/2 and 0 - 1 have the mean 1/6 and the variance 13/12 over G - 1.
    centred = [5 / 6, 1 / 3, -7 / 6]
    assert plain == pytest.approx(centred, abs=1e-6)
    assert scaled == pytest.approx([a / (sqrt(13 / 12) + 1e-4) for a in centred], abs=1e-6)


def test_equal_rewards_of_unequal_lengths_are_told_apart(make_rollout):
    batch, policy = responses(make_rollout, (0, 2, 1.0), (0, 3, 1.0))
    overlong = SoftOverlong(max_length=4, buffer=2)

    assert advantages_of(GRPO(std=False), batch, policy) == [0, 0]
    assert advantages_of(GRPO(std=False, overlong=overlong), batch, policy) == [0.25, -0.25]


# Group 0: 3 and 2 tokens, solved and failed, and one of 4 that nobody judged. Group 1: solved twice
# in 4 tokens each.
STEP = ((0, 3, 1.0), (0, 2, 0.0), (0, 4, None), (1, 4, 1.0), (1, 4, 1.0))


@pytest.mark.parametrize(
    ("objective", "count"),
    [
        (GRPO(), 4),
        (GRPO(dynamic_sampling=True), 2),
        (GRPO(divide_by="tokens"), 13),
        (GRPO.dapo(), 5),
        (GRPO(divide_by="rollouts", length_constant=10), 40),
        (GRPO(divide_by="rollouts", length_constant=10, dynamic_sampling=True), 20),
        # Two tokens into the buffer, group 1 still has nothing to compare.
        (GRPO.dapo(SoftOverlong(max_length=6, buffer=4)), 5),
    ],
)
def test_a_group_of_equal_rewards_leaves_the_count_where_it_is_asked_to(
    make_rollout, objective, count
):
    batch, _ = responses(make_rollout, *STEP)

    assert objective.denominator([batch]) == count


def test_the_count_is_the_same_when_a_group_is_spread_over_batches(make_rollout):
    first, _ = responses(make_rollout, *STEP[:1])
    second, _ = responses(make_rollout, *STEP[1:])

    assert GRPO.dapo().denominator([first, second]) == 5
    assert GRPO().denominator([first, second]) == 4


def test_lengths_that_tell_equal_rewards_apart_put_their_group_into_the_count(make_rollout):
    batch, _ = responses(make_rollout, (0, 3, 1.0), (0, 2, 0.0), (1, 4, 1.0), (1, 2, 1.0))

    assert GRPO.dapo().denominator([batch]) == 5
    assert GRPO.dapo(SoftOverlong(max_length=4, buffer=2)).denominator([batch]) == 11


def test_a_step_is_divided_by_one_where_no_group_has_signal(make_rollout):
    batch, policy = responses(make_rollout, (0, 3, 1.0), (0, 2, 1.0))
    objective = GRPO.dapo()
    stats = student_statistics(policy, batch, objective.needs)
    (advantages,) = objective.advantages([stats], [batch])

    loss, _ = objective(stats, batch, advantages, objective.denominator([batch]))

    assert objective.denominator([batch]) == 1
    assert loss.item() == 0


@pytest.mark.parametrize(
    ("objective", "shares"),
    [
        # Minus the advantage at each token: 3 of them up, 2 down.
        (GRPO.dapo(), -(3 - 2) / 5),
        (GRPO(divide_by="tokens"), -(3 - 2) / 13),
        (GRPO(), -(1 - 1) / 4),
        (GRPO(divide_by="rollouts", length_constant=10), -(3 - 2) / 40),
    ],
)
def test_loss_of_a_step_is_the_sum_over_its_count(make_rollout, objective, shares):
    batch, policy = responses(make_rollout, *STEP)
    stats = student_statistics(policy, batch, objective.needs)
    (advantages,) = objective.advantages([stats], [batch])

    loss, _ = objective(stats, batch, advantages, objective.denominator([batch]))

    size = 0.5 / (sqrt(0.5) + 1e-4)
    assert loss.item() == pytest.approx(shares * size, abs=1e-6)
