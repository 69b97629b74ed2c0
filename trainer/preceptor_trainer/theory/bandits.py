"""One decision: a strictly better teacher, and what a step of each divergence does to the reward.

A loss with functional derivative w_a = dL/dpi_a moves log pi_a by -(w_a - E_pi w) along the natural
gradient, so

    dJ/dt = -Cov_pi(r, w)          w = -u (forward CE), -log u (reverse KL), -log((1+u)/2)/2 (JSD)

with u = q/pi. Only forward CE is linear in u: its dJ/dt is J_q - J_pi, positive for every better
teacher. Plain descent on logits multiplies the velocity of log pi by pi once more, and Adam's first
step keeps only the gradient's signs: there no divergence keeps the guarantee.

Dimensions: A arms; leading axes are problems.
"""

from typing import Final, Literal

import numpy as np

from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.theory.enumerated import expected_update, softmax
from preceptor_trainer.theory.enumeration import Floats, TinyWorld
from preceptor_trainer.theory.finding import Chart, Finding

Loss = Literal["forward CE", "reverse KL", "JSD"]
LOSSES: Final[tuple[Loss, ...]] = ("forward CE", "reverse KL", "JSD")
REWARD: Final = np.array([1.0, 0.5, 0.0])
# Policy and teacher; in each the teacher's reward is higher.
REVERSE_FAILS: Final = (np.array([0.21, 0.02, 0.77]), np.array([0.03, 0.69, 0.28]))
LOGITS_FAIL: Final = (np.array([0.01, 0.495, 0.495]), np.array([0.3, 0.1, 0.6]))
SEED, NUM_PROBLEMS, STEPS, RATE = 0, 100_000, 300, 0.1


def derivative(loss: Loss, pi: Floats, q: Floats) -> Floats:
    """[..., A] derivative of the loss by the policy's probabilities, up to a constant."""
    if loss == "forward CE":
        return -q / pi
    if loss == "reverse KL":
        return np.log(pi / q)
    return 0.5 * np.log(2 * pi / (pi + q))


def natural_velocity(loss: Loss, pi: Floats, q: Floats) -> Floats:
    """[..., A] first-order change of the log-probs along the natural gradient."""
    w = derivative(loss, pi, q)
    return (pi * w).sum(-1, keepdims=True) - w


def natural_gain(loss: Loss, pi: Floats, q: Floats, reward: Floats) -> Floats:
    """[...] first-order change of the reward along the natural gradient."""
    centred = reward - (pi * reward).sum(-1, keepdims=True)
    return -(pi * centred * derivative(loss, pi, q)).sum(-1)


def logit_gain(loss: Loss, pi: Floats, q: Floats, reward: Floats) -> Floats:
    """[...] the same along plain gradient descent on free logits."""
    return _gain_along(logit_gradient(loss, pi, q), pi, reward)


def adam_gain(loss: Loss, pi: Floats, q: Floats, reward: Floats) -> Floats:
    """[...] the same along Adam's first step, whose size is equal for every logit."""
    return _gain_along(np.sign(logit_gradient(loss, pi, q)), pi, reward)


def logit_gradient(loss: Loss, pi: Floats, q: Floats) -> Floats:
    """[..., A] gradient of the loss by free logits."""
    w = derivative(loss, pi, q)
    return pi * (w - (pi * w).sum(-1, keepdims=True))


def _gain_along(gradient: Floats, pi: Floats, reward: Floats) -> Floats:
    centred = reward - (pi * reward).sum(-1, keepdims=True)
    return -(pi * centred * gradient).sum(-1)


def objective_gain(pi: Floats, q: Floats, reward: Floats) -> float:
    """First-order change of the reward by one descent step of DistIL itself."""
    world = TinyWorld(num_tokens=len(pi), horizon=1)
    gradient = expected_update(DistIL(baseline="none"), world, np.log(pi)[None], lambda _: q[None])
    return -float((pi * (reward - pi @ reward) * gradient[0]).sum())


def descent(loss: Loss, pi: Floats, q: Floats, reward: Floats) -> list[float]:
    """Reward before each step of descent on logits."""
    logits, rewards = np.log(pi), list[float]()
    for _ in range(STEPS + 1):
        p = softmax(logits)
        rewards.append(float(p @ reward))
        logits = logits - RATE * logit_gradient(loss, p, q)
    return rewards


def random_problems() -> tuple[Floats, Floats, Floats]:
    """Policies, teachers (uniform on the simplex) and rewards (uniform) with a better teacher."""
    rng = np.random.default_rng(SEED)
    pi, q = rng.dirichlet(np.ones(3), (2, NUM_PROBLEMS))
    reward = rng.random((NUM_PROBLEMS, 3))
    better = (q * reward).sum(-1) > (pi * reward).sum(-1)
    return pi[better], q[better], reward[better]


def finding() -> Finding:
    """The two hand-made problems, the share of random ones that a step makes worse."""
    numbers: dict[str, float] = {}
    for name, (pi, q) in {"A": REVERSE_FAILS, "B": LOGITS_FAIL}.items():
        numbers[f"{name}: reward of the policy"] = float(pi @ REWARD)
        numbers[f"{name}: reward of the teacher"] = float(q @ REWARD)
        for loss in LOSSES:
            numbers[f"{name}: natural step, {loss}"] = float(natural_gain(loss, pi, q, REWARD))
            numbers[f"{name}: logit step, {loss}"] = float(logit_gain(loss, pi, q, REWARD))
            velocity = natural_velocity(loss, pi, q)
            for arm, change in (("best", velocity[0]), ("worst", velocity[-1])):
                numbers[f"{name}: natural step, {loss}, log-prob of the {arm} arm"] = float(change)
        numbers[f"{name}: logit step, the trainer's DistIL"] = objective_gain(pi, q, REWARD)
    lines = {loss: descent(loss, *REVERSE_FAILS, REWARD) for loss in LOSSES}
    for loss in LOSSES:
        numbers[f"A: lowest reward in {STEPS} logit steps, {loss}"] = min(lines[loss])
    problems = random_problems()
    numbers["random problems with a better teacher"] = len(problems[0])
    for loss in LOSSES:
        for step, gain in (("natural", natural_gain), ("logit", logit_gain), ("Adam", adam_gain)):
            worse = gain(loss, *problems) < -1e-12
            numbers[f"share made worse, {step} step, {loss}"] = float(worse.mean())
    return Finding(
        numbers=numbers,
        chart=Chart(
            x_label="logit step (problem A)",
            y_label="reward",
            x=[float(i) for i in range(0, STEPS + 1, 5)],
            lines={loss: line[::5] for loss, line in lines.items()},
        ),
    )
