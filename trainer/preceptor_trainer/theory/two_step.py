"""Two decisions: the tokenwise gradient is stuck where the sequence-level one is not.

First L or R, where the teacher is indifferent (1/2, 1/2). Then one of four tokens: after L the
teacher gives the right one 0.99, after R it is uniform. The response succeeds when its second token
is 0. Tokenwise CE matches the teacher and stays at P(L) = 1/2. The sequence-level gradient includes
that costs after L are lower. The signal is the teacher's entropy: with KL-to-go there is none once
the teacher is matched.

A second world has two options in both steps and shares the second step's logits between the
branches, so that the student cannot match both teachers: (0.98 on token 0) after L, (0.7 on token
1) after R; (L, 0) is worth 1 and (R, 1) a half. CE-to-go prefers the branch whose teacher is
sure, KL-to-go the one that is matched; neither is the reward.

Everything here is the trainer's `DistIL`, descended on all enumerated responses.
"""

from typing import Final, Literal

import numpy as np
import torch

from preceptor_trainer.model.batch import collate
from preceptor_trainer.model.heads.dense import student_statistics
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.theory.enumerated import every_rollout, expected_update, softmax
from preceptor_trainer.theory.enumeration import Floats, PrefixTable, TinyWorld, as_teacher
from preceptor_trainer.theory.finding import Chart, Finding

WORLD: Final = TinyWorld(num_tokens=4, horizon=2)
NEVER: Final = -40.0  # the first decision has two options, the world's alphabet four
LEFT, RIGHT = 1, 2  # prefixes after the first decision
STEPS, RATE = 400, 2.0
Future = Literal["none", "ce", "kl"]
RULES: Final[dict[str, Future]] = {"tokenwise": "none", "CE-to-go": "ce", "KL-to-go": "kl"}


def start() -> Floats:
    """[P, V] logits of a uniform policy."""
    logits = np.zeros((WORLD.num_prefixes, WORLD.num_tokens))
    logits[0, 2:] = NEVER
    return logits


def teacher() -> Floats:
    """[P, V] probabilities; branches that are never entered do not matter."""
    logits = start()
    logits[LEFT] = np.log([0.99, 0.01 / 3, 0.01 / 3, 0.01 / 3])
    return as_teacher(logits)


def sharing_start() -> Floats:
    """[P, V] logits of a uniform policy with two options in both steps."""
    logits = start()
    logits[:, 2:] = NEVER
    return logits


def sharing_teacher() -> Floats:
    """[P, V] of the world whose branches share the student's second step."""
    logits = sharing_start()
    logits[LEFT, :2], logits[RIGHT, :2] = np.log([0.98, 0.02]), np.log([0.3, 0.7])
    return as_teacher(logits)


def descend(
    future: Future, teacher_PV: Floats, *, shared: bool = False
) -> tuple[list[float], Floats]:
    """P(L) every tenth step, and the final logits."""
    objective = DistIL(baseline="none", future=future)
    policy = PrefixTable(torch.tensor(sharing_start() if shared else start()))
    rollouts = every_rollout(WORLD, lambda _: teacher_PV)
    batch, left = collate(rollouts), list[float]()
    for step in range(STEPS + 1):
        logits = policy.logits.detach().numpy()
        if step % 10 == 0:
            left.append(float(softmax(logits[0])[0]))
        weights_S = torch.tensor(WORLD.probabilities(logits))
        stats = student_statistics(policy, batch, objective.needs)
        (advantages,) = objective.advantages([stats], [batch])
        loss = (weights_S * objective.token_losses(stats, batch, advantages).sum(1)).sum()
        (gradient,) = torch.autograd.grad(loss, policy.logits)
        if shared:
            gradient[[LEFT, RIGHT]] = gradient[[LEFT, RIGHT]].sum(0)
        with torch.no_grad():
            policy.logits.sub_(RATE * gradient)
    return left, policy.logits.detach().numpy()


def success(logits_PV: Floats) -> float:
    """Chance that the second token is 0."""
    p = softmax(logits_PV)
    return float(p[0, 0] * p[LEFT, 0] + p[0, 1] * p[RIGHT, 0])


def sharing_reward(logits_PV: Floats) -> float:
    """1 for (L, 0), a half for (R, 1)."""
    p = softmax(logits_PV)
    return float(p[0, 0] * p[LEFT, 0] + 0.5 * p[0, 1] * p[RIGHT, 1])


def fixed_point() -> float:
    """P(L) at which the sequence-level gradient vanishes with the second step matched.

    The root of p - 1/2 = p (1 - p) (c_R - c_L), by bisection.
    """
    q = teacher()
    gap = float((q[LEFT] * np.log(q[LEFT])).sum() - (q[RIGHT] * np.log(q[RIGHT])).sum())
    low, high = 0.5, 1.0
    for _ in range(60):
        p = (low + high) / 2
        low, high = (p, high) if p - 0.5 < p * (1 - p) * gap else (low, p)
    return low


def finding() -> Finding:
    """Where each rule ends, and the first decision's gradient at the tokenwise end."""
    numbers, lines = dict[str, float](), dict[str, list[float]]()
    matched = np.log(np.maximum(teacher(), np.exp(NEVER)))
    for name, future in RULES.items():
        lines[name], logits = descend(future, teacher())
        numbers[f"{name}: P(L)"] = float(softmax(logits[0])[0])
        numbers[f"{name}: success"] = success(logits)
        gradient = expected_update(
            DistIL(baseline="none", future=future), WORLD, matched, lambda _: teacher()
        )
        numbers[f"{name}: gradient on L's logit where the teacher is matched"] = float(
            gradient[0, 0]
        )
        _, logits = descend(future, sharing_teacher(), shared=True)
        numbers[f"shared second step, {name}: P(L)"] = float(softmax(logits[0])[0])
        numbers[f"shared second step, {name}: reward"] = sharing_reward(logits)
    numbers["fixed point of CE-to-go by bisection: P(L)"] = fixed_point()
    return Finding(
        numbers=numbers,
        chart=Chart(
            x_label=f"step of DistIL at rate {RATE:g}",
            y_label="P(L)",
            x=[float(i) for i in range(0, STEPS + 1, 10)],
            lines=lines,
        ),
    )
