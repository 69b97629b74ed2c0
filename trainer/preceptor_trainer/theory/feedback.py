"""Feedback that is given, and feedback that depends on the rollout.

DistIL's gradient charges a token with later costs only. That is exact while the teacher in a
state depends only on the state. When feedback is computed from the rollout (here: passed or failed,
visible to the teacher at every position), the teacher early in the rollout depends on later tokens.
Then earlier costs do not drop out, and only `credit="all"` is the full gradient.
"""

from typing import Final

import numpy as np

from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.theory.enumerated import TeacherOf, expected_update, relative_error
from preceptor_trainer.theory.enumeration import (
    Floats,
    TinyWorld,
    Tokens,
    finite_differences,
    log_softmax,
)
from preceptor_trainer.theory.finding import Chart, Finding

WORLD: Final = TinyWorld(num_tokens=3, horizon=3)
SEEDS: Final = range(4)
LATER: Final = DistIL(baseline="none")
ALL: Final = DistIL(baseline="none", credit="all")


def stated_gradient(teacher_of: TeacherOf, logits_PV: Floats) -> Floats:
    """[P, V] of sum_y p(y) sum_t CE(q_t, pi_t), by central differences."""
    sequences = WORLD.sequences()
    rows = [WORLD.prefixes(y) for y in sequences]
    teachers = [teacher_of(y)[index] for y, index in zip(sequences, rows, strict=True)]

    def value(logits: Floats) -> float:
        logprobs = log_softmax(logits)
        costs = [-(q * logprobs[i]).sum() for q, i in zip(teachers, rows, strict=True)]
        return float(WORLD.probabilities(logits) @ np.array(costs))

    return finite_differences(value, logits_PV)


def errors(seed: int) -> dict[str, float]:
    """Relative error of each rule's expected update, for each kind of feedback."""
    logits = WORLD.random_logits(seed)
    passed, failed = WORLD.random_teacher(100 + seed), WORLD.random_teacher(200 + seed)

    def given(_: Tokens) -> Floats:
        return passed

    def caused(sequence: Tokens) -> Floats:
        return passed if sum(sequence) % 2 == 0 else failed

    return {
        f"{kind}, {rule}": relative_error(
            expected_update(objective, WORLD, logits, teacher_of),
            stated_gradient(teacher_of, logits),
        )
        for kind, teacher_of in (("given", given), ("caused", caused))
        for rule, objective in (("later costs", LATER), ("all costs", ALL))
    }


def finding() -> Finding:
    """The errors over the seeds."""
    per_seed = [errors(seed) for seed in SEEDS]
    return Finding(
        numbers={
            f"feedback {name}, seed {seed}: relative error": value
            for seed, found in enumerate(per_seed)
            for name, value in found.items()
        },
        chart=Chart(
            x_label="seed",
            y_label="relative error of the expected update",
            x=[float(seed) for seed in SEEDS],
            lines={name: [found[name] for found in per_seed] for name in per_seed[0]},
        ),
    )
