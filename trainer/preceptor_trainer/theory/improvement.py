"""Several decisions: when a local step improves the policy, and how far behind the teacher it is.

Improvement. A natural step of tokenwise forward CE changes the return by

    dJ/dt = sum_t E_{s ~ d_pi} E_{a ~ q}[ A_pi(s, a) ],

positive exactly when the teacher has positive advantage on the student's own states. A higher
return of the teacher, which visits other states, does not imply it.

Regret. With returns in [0, 1], the performance difference lemma, Pinsker and Cauchy-Schwarz give

    J_q - J_pi <= sqrt( H/2 * sum_t E_{s ~ d_pi} KL(q || pi) ).

Worlds are trees: A actions, depth H, a reward at each leaf. Dimensions: N worlds, S states of one
depth (A^t of them), A actions.
"""

from dataclasses import dataclass

import numpy as np

from preceptor_trainer.theory.bandits import LOSSES, Loss, derivative
from preceptor_trainer.theory.enumeration import Floats
from preceptor_trainer.theory.finding import Chart, Finding

SEED, NUM_WORLDS = 0, 40_000


@dataclass(frozen=True, kw_only=True)
class Trees:
    """Random trees with two policies: Dirichlet(1) in every state, leaves uniform on [0, 1]."""

    pi: list[Floats]
    """Per depth [N, S, A]."""
    q: list[Floats]
    leaves: Floats
    """[N, A^H]."""

    @classmethod
    def random(cls, seed: int, *, horizon: int, num_actions: int) -> "Trees":
        """Drawn from the seed."""
        rng = np.random.default_rng(seed)
        shapes = [(NUM_WORLDS, num_actions**t) for t in range(horizon)]
        return cls(
            pi=[rng.dirichlet(np.ones(num_actions), shape) for shape in shapes],
            q=[rng.dirichlet(np.ones(num_actions), shape) for shape in shapes],
            leaves=rng.random((NUM_WORLDS, num_actions**horizon)),
        )

    @property
    def horizon(self) -> int:
        """Depth."""
        return len(self.pi)


def action_values(policy: list[Floats], leaves: Floats) -> list[Floats]:
    """Per depth [N, S, A]: expected return after each action."""
    values: list[Floats] = []
    below = leaves
    for p in reversed(policy):
        values.append(below.reshape(p.shape))
        below = (p * values[-1]).sum(-1)
    return values[::-1]


def returns(policy: list[Floats], leaves: Floats) -> Floats:
    """[N] expected return."""
    return (policy[0] * action_values(policy, leaves)[0]).sum((-1, -2))


def visits(policy: list[Floats]) -> list[Floats]:
    """Per depth [N, S]: chance to be in each state."""
    chances: list[Floats] = [np.ones(policy[0].shape[:2])]
    for p in policy[:-1]:
        chances.append((chances[-1][..., None] * p).reshape(len(p), -1))
    return chances


def natural_gain(loss: Loss, trees: Trees) -> Floats:
    """[N] first-order change of the return by a natural step of the tokenwise loss."""
    gain = np.zeros(len(trees.leaves))
    values, chances = action_values(trees.pi, trees.leaves), visits(trees.pi)
    for pi, q, value, chance in zip(trees.pi, trees.q, values, chances, strict=True):
        centred = value - (pi * value).sum(-1, keepdims=True)
        gain -= (chance * (pi * centred * derivative(loss, pi, q)).sum(-1)).sum(-1)
    return gain


def teacher_advantage(trees: Trees) -> Floats:
    """[N] sum_t E_{s ~ d_pi} E_{a ~ q}[ A_pi(s, a) ]."""
    total = np.zeros(len(trees.leaves))
    values, chances = action_values(trees.pi, trees.leaves), visits(trees.pi)
    for pi, q, value, chance in zip(trees.pi, trees.q, values, chances, strict=True):
        total += (chance * ((q - pi) * value).sum(-1)).sum(-1)
    return total


def regret_bound(trees: Trees) -> Floats:
    """[N] the right-hand side of the regret bound."""
    divergence = np.zeros(len(trees.leaves))
    for pi, q, chance in zip(trees.pi, trees.q, visits(trees.pi), strict=True):
        divergence += (chance * (q * np.log(q / pi)).sum(-1)).sum(-1)
    return np.sqrt(trees.horizon / 2 * divergence)


def finding() -> Finding:
    """Both statements on random trees of two sizes."""
    numbers: dict[str, float] = {}
    grid, lines = np.linspace(-1, 1, 41), dict[str, list[float]]()
    for horizon, num_actions in ((2, 3), (4, 2)):
        trees = Trees.random(SEED, horizon=horizon, num_actions=num_actions)
        regret = returns(trees.q, trees.leaves) - returns(trees.pi, trees.leaves)
        better, advantage = regret > 0, teacher_advantage(trees)
        name = f"H={horizon}"
        numbers[f"{name}: trees whose teacher has the higher return"] = int(better.sum())
        numbers[f"{name}: of these, teacher's advantage on student states is negative"] = float(
            (advantage[better] < 0).mean()
        )
        held = advantage > 0
        for loss in LOSSES:
            worse = natural_gain(loss, trees)[held & better] < -1e-12
            numbers[f"{name}: better teacher and condition, made worse by {loss}"] = float(
                worse.mean()
            )
        ratio = regret / regret_bound(trees)
        numbers[f"{name}: violations of the regret bound"] = int((ratio > 1).sum())
        numbers[f"{name}: largest regret over its bound"] = float(ratio.max())
        lines[name] = [float((ratio <= x).mean()) for x in grid]
    return Finding(
        numbers=numbers,
        chart=Chart(
            x_label="regret over its bound",
            y_label="share of trees below",
            x=[float(x) for x in grid],
            lines=lines,
        ),
    )
