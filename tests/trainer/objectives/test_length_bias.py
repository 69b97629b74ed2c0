"""Stop or continue: which switches of DistIL prefer short responses, on an enumerable toy."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from preceptor_trainer.model.batch import collate
from preceptor_trainer.model.heads.dense import student_statistics
from preceptor_trainer.objectives.distil import DistIL

pytestmark = pytest.mark.usefixtures("one_thread")

CONTINUE, STOP = 0, 1
TEACHER_STOP = 0.05
# Longest response, by how many are in a group: groups of two are many.
HORIZONS = {1: 80, 2: 20}


class StopOrContinue(nn.Module):
    """One logit pair for every state."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([1.5, 0.0], dtype=torch.float64))

    def get_decoder(self):
        def decode(*, input_ids, use_cache):
            return SimpleNamespace(last_hidden_state=self.logits.expand(*input_ids.shape, 2))

        return decode

    def get_output_embeddings(self) -> nn.Module:
        return nn.Identity()


def settled_stop_probability(
    objective: DistIL, make_component, make_rollout, group_size: int = 1
) -> float:
    """Descend the expected loss over all groups of lengths until it rests."""
    lengths = range(1, HORIZONS[group_size] + 1)
    batch = collate(
        [
            make_rollout(
                f"{group}-{place}",
                [CONTINUE] * (n - 1) + [STOP],
                [make_component([[CONTINUE, STOP]] * n, [[1 - TEACHER_STOP, TEACHER_STOP]] * n)],
                group=group,
            )
            for group, chosen in enumerate(itertools.product(lengths, repeat=group_size))
            for place, n in enumerate(chosen)
        ]
    )
    policy = StopOrContinue()
    optimiser = torch.optim.Adam(policy.parameters(), lr=0.2)
    for _ in range(80):
        stats = student_statistics(policy, batch, objective.needs)
        (advantages,) = objective.advantages([stats], [batch])
        local, score = objective.terms(stats, batch, advantages)
        chances = torch.where(batch.response_mask_BT, stats.sampled_logprobs_BT, 0).sum(1).exp()
        weights = chances.detach().view(-1, group_size).prod(1)
        loss_per_group = (local + score).sum(1).view(-1, group_size).mean(1)
        optimiser.zero_grad()
        (weights * loss_per_group).sum().backward()
        optimiser.step()
    return policy.logits.detach().softmax(0)[STOP].item()


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (DistIL(baseline="none"), 0.35),
        (DistIL(baseline="none", normaliser="remaining"), 0.062),
        (DistIL(baseline="none", future="kl"), 0.05),
        (DistIL(future="none"), 0.05),
    ],
    ids=["ce-to-go", "remaining", "kl-to-go", "local only"],
)
def test_ce_to_go_prefers_short_responses_and_kl_to_go_does_not(
    objective, expected, make_component, make_rollout
):
    settled = settled_stop_probability(objective, make_component, make_rollout)

    assert settled == pytest.approx(expected, abs=0.01)
    assert np.isfinite(settled)


def test_leave_one_out_does_not_change_where_ce_to_go_settles(make_component, make_rollout):
    settled = settled_stop_probability(
        DistIL(baseline="loo"), make_component, make_rollout, group_size=2
    )

    assert settled == pytest.approx(0.35, abs=0.01)
