"""Stop or continue: costs-to-go charge every further token, so they prefer short responses.

The teacher stops with chance 0.05 in every state; the student has one stop chance s. A further
entropy of h nats per token models the teacher's uncertainty about other choices. With
c(s) = CE(teacher, student) + h the exact objective is c(s) times the mean length 1/s. Its minimum
is not at the teacher's 0.05. The released mean of later costs is c where the response goes on and 0
where it ends: its stationary point solves c'(s) = c(s). KL-to-go subtracts the entropy and is
stationary at the teacher, as the tokenwise rule is.

That the trainer's `DistIL` has these pushes is shown at equality with the teacher, on all responses
of at most eight tokens. Where it settles, without a baseline and with leave-one-out, is found with
one stop chance for all states, on all groups of two responses of at most 24 tokens.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from preceptor_trainer.model.batch import TrainRollout
from preceptor_trainer.model.credit import BaselineRule
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.theory.enumerated import expected_update
from preceptor_trainer.theory.enumeration import (
    Floats,
    PrefixTable,
    TinyWorld,
    Tokens,
    as_teacher,
    expected_gradient,
    rollout_losses,
    table_target,
)
from preceptor_trainer.theory.finding import Chart, Finding

STOP: Final = 0.05
FLOORS: Final = (0.0, 0.1, 0.3)
HORIZON: Final = 8
RULES: Final = {
    "CE-to-go": DistIL(baseline="none"),
    "mean of later CE": DistIL(baseline="none", normaliser="remaining"),
    "KL-to-go": DistIL(baseline="none", future="kl"),
    "tokenwise": DistIL(future="none"),
}


BASELINES: Final[dict[str, BaselineRule]] = {"no baseline": "none", "leave-one-out": "loo"}


@dataclass(frozen=True, kw_only=True)
class OneState(TinyWorld):
    """Stop (0) or continue (1) with one logit pair for every prefix; the longest may not stop."""

    num_tokens: int = 2
    horizon: int = 24

    @property
    def num_prefixes(self) -> int:
        """The table's one row."""
        return 1

    def sequences(self) -> list[Tokens]:
        """One response per length, and the one that never stops."""
        return [(1,) * n + (0,) for n in range(self.horizon)] + [(1,) * self.horizon]

    def prefixes(self, sequence: Tokens) -> list[int]:
        """The same row every time."""
        return [0] * len(sequence)


PAIRS_WORLD: Final = OneState()


def cost(s: float, floor: float) -> float:
    """CE per token, nats."""
    return float(-STOP * np.log(s) - (1 - STOP) * np.log(1 - s)) + floor


def slope(s: float) -> float:
    """Derivative of the cost by the student's stop chance."""
    return -STOP / s + (1 - STOP) / (1 - s)


def root(function: Callable[[float], float], halvings: int = 80) -> float:
    """Where an increasing sign changes in (0, 1), by bisection."""
    low, high = 1e-9, 1 - 1e-9
    for _ in range(halvings):
        s = (low + high) / 2
        low, high = (s, high) if function(s) < 0 else (low, s)
    return low


def settled_sum(floor: float) -> float:
    """Stop chance that minimises c(s)/s: s c'(s) = c(s)."""
    return root(lambda s: s * slope(s) - cost(s, floor))


def settled_mean(floor: float) -> float:
    """Stop chance where the update with the mean of later costs vanishes: c'(s) = c(s)."""
    return root(lambda s: slope(s) - cost(s, floor))


def settled_kl(floor: float) -> float:
    """Stop chance where KL-to-go vanishes: its cost is c minus the teacher's entropy."""
    entropy = cost(STOP, floor)
    return root(lambda s: s * slope(s) - (cost(s, floor) - entropy))


def push_at_equality(objective: DistIL) -> float:
    """Descent direction of the first position's stop logit, student equal to teacher."""
    world = TinyWorld(num_tokens=2, horizon=HORIZON, stop=0)
    teacher = as_teacher(np.tile(np.log([STOP, 1 - STOP]), (world.num_prefixes, 1)))
    return -float(expected_update(objective, world, np.log(teacher), lambda _: teacher)[0, 0])


def expected_push() -> float:
    """Closed form of that push for CE-to-go: s (1-s) times entropy times later tokens."""
    later = (1 - (1 - STOP) ** (HORIZON - 1)) / STOP
    return STOP * (1 - STOP) * cost(STOP, 0.0) * later


def pairs() -> list[list[TrainRollout]]:
    """Every group of two responses, under a fixed teacher."""
    teacher = as_teacher(np.log([[STOP, 1 - STOP]]))
    every = itertools.product(PAIRS_WORLD.sequences(), repeat=2)
    return [
        [_rollout(y, n, place, teacher) for place, y in enumerate(p)] for n, p in enumerate(every)
    ]


def settled_distil(baseline: BaselineRule, groups: list[list[TrainRollout]]) -> float:
    """Stop chance at which the expected update of DistIL vanishes."""
    objective = DistIL(baseline=baseline)

    def stop_gradient(s: float) -> float:
        logits, weights = _policy(s)
        return float(expected_gradient(objective, logits, groups, weights)[0, 0])

    return root(stop_gradient, halvings=16)


def update_variance(baseline: BaselineRule, groups: list[list[TrainRollout]], s: float) -> float:
    """Variance of a group's update of the stop logit."""
    logits, weights = _policy(s)
    rows = [rollout for group in groups for rollout in group]
    policy = PrefixTable(torch.tensor(logits).repeat(len(rows), 1, 1))
    loss = rollout_losses(DistIL(baseline=baseline), policy, rows).sum()
    (gradient,) = torch.autograd.grad(loss, policy.logits)
    update_G = gradient[:, 0, 0].numpy().reshape(len(groups), -1).mean(1)
    return float(weights @ (update_G - weights @ update_G) ** 2)


def _policy(s: float) -> tuple[Floats, Floats]:
    """Logits with this stop chance, and the probability of every pair."""
    logits = np.log([[s, 1 - s]])
    p = PAIRS_WORLD.probabilities(logits)
    return logits, np.outer(p, p).ravel()


def _rollout(sequence: Tokens, group: int, place: int, teacher: Floats) -> TrainRollout:
    name = f"{group}-{place}"
    return TrainRollout(
        rollout_id=name,
        group=group,
        prompt_ids=[0],
        response_ids=sequence,
        target=table_target(PAIRS_WORLD, name, sequence, teacher, PAIRS_WORLD.num_tokens),
    )


def finding() -> Finding:
    """Where each rule settles, and the objective's own push on the stop token."""
    numbers: dict[str, float] = {"teacher's stop chance": STOP}
    settled = {
        "CE-to-go": settled_sum,
        "mean of later CE": settled_mean,
        "KL-to-go": settled_kl,
    }
    for floor in FLOORS:
        for name, rule in settled.items():
            numbers[f"settled stop chance, h={floor:g}, {name}"] = rule(floor)
    for name, objective in RULES.items():
        numbers[f"DistIL's push on the stop logit at equality, {name}"] = push_at_equality(
            objective
        )
    numbers["the same in closed form, CE-to-go"] = expected_push()
    groups = pairs()
    for name, baseline in BASELINES.items():
        numbers[f"DistIL on pairs, h=0, CE-to-go, {name}: settled stop chance"] = settled_distil(
            baseline, groups
        )
    for name, baseline in BASELINES.items():
        numbers[f"DistIL on pairs, h=0, CE-to-go, {name}: variance of its update there"] = (
            update_variance(baseline, groups, settled_sum(0.0))
        )
    grid = np.linspace(0, 0.5, 26)
    return Finding(
        numbers=numbers,
        chart=Chart(
            x_label="entropy floor h, nats per token",
            y_label="settled stop chance",
            x=[float(h) for h in grid],
            lines={name: [rule(float(h)) for h in grid] for name, rule in settled.items()},
        ),
    )
