"""Weights of an expert per position in a mixture of experts.

A mixture never merges lists: every expert stays a component of the target, and at each position the
weights of those that have an opinion are scaled to sum to 1. A rule computes the weight of one
expert at each position from its own answer; it is multiplied by the expert's weight in the run.
Rules are pure, so that the same answers give the same target.

    experts=(
        ExpertUse(name="large", weight=2.0, per_token=Certainty(scale=1.0)),
        ExpertUse(name="self-teacher", per_token=Certainty(scale=1.0)),
    )

Dimensions: P positions that were asked, K entries of an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from preceptor_clients.contract.schemas import PrefixAnswer, PrefixQuery


class TokenWeights(Protocol):
    """A rule; a frozen dataclass that is called."""

    def __call__(self, query: PrefixQuery, answer: PrefixAnswer) -> np.ndarray:
        """`[P]` weights of 0 or more."""
        ...


@dataclass(frozen=True, kw_only=True)
class Certainty:
    """A larger weight where the expert is certain: `exp(-entropy / scale)`.

    The entropy, in nats, counts the tail as one more id, so it is a lower bound.
    """

    scale: float = 1.0
    """Nats of entropy that divide the weight by e; a large scale makes all positions equal."""

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"scale: {self.scale} is not above 0")

    def __call__(self, query: PrefixQuery, answer: PrefixAnswer) -> np.ndarray:
        """`[P]` in (0, 1]."""
        logprobs_PK = np.where(answer.filled_PK(), answer.logprobs_PK, 0.0).astype(np.float64)
        probs_PK = np.where(answer.filled_PK(), np.exp(logprobs_PK), 0.0)
        # A tail of 0 adds nothing, and 1 log 1 is 0.
        tail_P = np.where(answer.tail_P > 0, answer.tail_P, 1.0).astype(np.float64)
        entropy_P = -(probs_PK * logprobs_PK).sum(1) - tail_P * np.log(tail_P)
        return np.exp(-entropy_P / self.scale)
