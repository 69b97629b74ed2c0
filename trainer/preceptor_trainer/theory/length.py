"""Stop or continue: costs-to-go charge for every further token, so they prefer short responses.

The teacher stops with chance 0.05 in every state; the student has one stop chance s. A further
entropy of h nats per token stands for everything else that the teacher is unsure of. With
c(s) = CE(teacher, student) + h the exact objective is c(s) times the mean length 1/s. Its minimum
is not at the teacher's 0.05. The released mean of later costs is c where the response goes on and 0
where it ends: its stationary point solves c'(s) = c(s). KL-to-go subtracts the entropy and is
stationary at the teacher, as the tokenwise rule is.

That the trainer's `DistIL` has these pushes is shown at equality with the teacher, on all responses
of at most eight tokens.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from preceptor_trainer.enumeration import TinyWorld, as_teacher
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.theory.enumerated import expected_update
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


def cost(s: float, floor: float) -> float:
    """CE per token, nats."""
    return float(-STOP * np.log(s) - (1 - STOP) * np.log(1 - s)) + floor


def slope(s: float) -> float:
    """Derivative of the cost by the student's stop chance."""
    return -STOP / s + (1 - STOP) / (1 - s)


def root(function: Callable[[float], float]) -> float:
    """Where an increasing sign changes in (0, 1), by bisection."""
    low, high = 1e-9, 1 - 1e-9
    for _ in range(80):
        s = (low + high) / 2
        low, high = (s, high) if function(s) < 0 else (low, s)
    return low


def settled_sum(floor: float) -> float:
    """Stop chance that minimises c(s)/s: s c'(s) = c(s)."""
    return root(lambda s: s * slope(s) - cost(s, floor))


def settled_mean(floor: float) -> float:
    """Stop chance where the released estimator vanishes in expectation: c'(s) = c(s)."""
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
