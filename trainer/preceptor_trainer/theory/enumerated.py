"""The trainer's own objective on an enumerated policy, with a teacher per sequence.

Dimensions: P prefixes, V tokens (see `preceptor_trainer.theory.enumeration`).
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from preceptor_trainer.model.batch import TrainRollout
from preceptor_trainer.objectives import Objective
from preceptor_trainer.theory.enumeration import (
    Floats,
    TinyWorld,
    Tokens,
    expected_gradient,
    log_softmax,
    table_target,
)

TeacherOf: TypeAlias = Callable[[Tokens], Floats]


def every_rollout(world: TinyWorld, teacher_of: TeacherOf) -> list[TrainRollout]:
    """Each response once, in a group of its own, with the whole teacher as its target."""
    return [
        TrainRollout(
            rollout_id=str(i),
            group=i,
            prompt_ids=[0],
            response_ids=y,
            target=table_target(world, str(i), y, teacher_of(y), world.num_tokens),
        )
        for i, y in enumerate(world.sequences())
    ]


def expected_update(
    objective: Objective, world: TinyWorld, logits_PV: Floats, teacher_of: TeacherOf
) -> Floats:
    """[P, V] the objective's gradient, averaged over all responses."""
    groups: Sequence[Sequence[TrainRollout]] = [[r] for r in every_rollout(world, teacher_of)]
    return expected_gradient(objective, logits_PV, groups, world.probabilities(logits_PV))


def softmax(logits: Floats) -> Floats:
    """Probabilities over the last axis."""
    return np.exp(log_softmax(logits))


def relative_error(gradient: Floats, reference: Floats) -> float:
    """Distance over the reference's length."""
    return float(np.linalg.norm(gradient - reference) / np.linalg.norm(reference))


def cosine(a: Floats, b: Floats) -> float:
    """Of the angle between two gradients."""
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
