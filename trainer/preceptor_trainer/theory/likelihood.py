"""Forward CE to the Bayes teacher as a bound on the log-likelihood of success, and Pass@N.

With Q(s, a) the chance to succeed after a, Jensen gives for every teacher q

    log sum_a pi(a|s) Q(s, a)  >=  -CE(q, pi) + E_q[log Q] + H(q),

tight at q ~ pi Q, the policy given that it succeeds. There the gradient of CE is that of minus the
log-likelihood. And -log p = sum_k (1-p)^k / k, with (1-p)^k the chance to fail k times: more
log-likelihood is less failure at every k, with most weight on problems that are rarely solved.

With several decisions the identity is per state only: the gradient of log p weighs a state by how
often *successful* rollouts visit it, tokenwise CE by how often all rollouts do.
"""

from typing import Final

import numpy as np

from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.theory.enumerated import cosine, expected_update, relative_error, softmax
from preceptor_trainer.theory.enumeration import Floats, TinyWorld, as_teacher, finite_differences
from preceptor_trainer.theory.finding import Chart, Finding

SEED, NUM_DRAWS = 0, 20_000
PASS_RATES: Final = (0.02, 0.3, 0.9)


def gap(pi: Floats, success: Floats, q: Floats) -> Floats:
    """[...] left minus right side of the bound."""
    left = np.log((pi * success).sum(-1))
    return left - (q * np.log(pi * success / q)).sum(-1)


def bayes(pi: Floats, success: Floats) -> Floats:
    """[..., A] the policy given success."""
    joint = pi * success
    return joint / joint.sum(-1, keepdims=True)


def fail_series(p: float, terms: int) -> float:
    """Sum over k up to `terms` of (1-p)^k / k."""
    k = np.arange(1, terms + 1)
    return float(((1 - p) ** k / k).sum())


def gradients_at_bayes(horizon: int, seed: int) -> tuple[Floats, Floats]:
    """DistIL's local gradient at the Bayes teacher, and that of minus log success."""
    world = TinyWorld(num_tokens=3, horizon=horizon)
    logits = world.random_logits(seed)
    chance_S = np.random.default_rng(100 + seed).random(len(world.sequences()))
    teacher = as_teacher(np.log(_bayes_table(world, logits, chance_S)))
    local = expected_update(DistIL(future="none"), world, logits, lambda _: teacher)
    likelihood = finite_differences(
        lambda z: -float(np.log(world.probabilities(z) @ chance_S)), logits
    )
    return local, likelihood


def _bayes_table(world: TinyWorld, logits: Floats, chance_S: Floats) -> Floats:
    """[P, V] the policy given success, at every prefix."""
    joint = np.zeros_like(logits)
    p_S = world.probabilities(logits)
    for y, p, chance in zip(world.sequences(), p_S, chance_S, strict=True):
        for prefix, token in zip(world.prefixes(y), y, strict=True):
            joint[prefix, token] += p * chance
    return joint / joint.sum(-1, keepdims=True)


def finding() -> Finding:
    """The bound on random draws, the series, and the objective's own gradient."""
    rng = np.random.default_rng(SEED)
    pi, q = softmax(rng.normal(size=(2, NUM_DRAWS, 4)))
    success = rng.uniform(0.01, 1, (NUM_DRAWS, 4))
    gaps, tight = gap(pi, success, q), gap(pi, success, bayes(pi, success))
    numbers: dict[str, float] = {
        "random draws": NUM_DRAWS,
        "violations of the bound": int((gaps < -1e-12).sum()),
        "mean gap of a random teacher, nats": float(gaps.mean()),
        "largest gap at the Bayes teacher, nats": float(np.abs(tight).max()),
    }
    for p in PASS_RATES:
        error = fail_series(p, 20_000) + np.log(p)
        numbers[f"error of the series at p={p:g}, 20000 terms"] = float(abs(error))
    local, likelihood = gradients_at_bayes(1, SEED)
    numbers["one decision: relative error of DistIL against log success"] = relative_error(
        local, likelihood
    )
    for seed in range(3):
        numbers[f"three decisions, seed {seed}: cosine of tokenwise DistIL with log success"] = (
            cosine(*gradients_at_bayes(3, seed))
        )
    p = np.geomspace(0.01, 1, 41)
    return Finding(
        numbers=numbers,
        chart=Chart(
            x_label="p, chance to solve the problem",
            y_label="weight of one more unit of p",
            x=[float(x) for x in p],
            lines={
                "log-likelihood, 1/p": [float(x) for x in 1 / p],
                "Pass@64": [float(x) for x in 64 * (1 - p) ** 63],
                "Pass@8": [float(x) for x in 8 * (1 - p) ** 7],
                "Pass@1": [1.0] * len(p),
            },
        ),
    )
