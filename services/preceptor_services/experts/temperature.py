"""A sharper expert: the distribution of a model at a temperature of its own.

    q(v|s)  proportional to  q_model(v|s)^(1/T),  that is  softmax(logits / T)

Below 1 it prefers the model's best tokens: a weak teacher is wrong less often. Its answers are the
log-probs of this distribution, so entries, tail, own tokens and candidates agree with each other.
It is another expert than the model itself: T is part of its version.

For the scoring engine it is one model (`engine.models.Scorer`).

Dimensions: R rows (queried positions), H of a hidden state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from preceptor_services.experts.engine.models import Scorer


class AtTemperature:
    """A model, scored at a temperature."""

    def __init__(self, model: Scorer, temperature: float) -> None:
        self._model = model
        self._temperature = temperature

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self._model.device

    @property
    def num_logits(self) -> int:
        """Rows of the model's head."""
        return self._model.num_logits

    @property
    def logits_dtype(self) -> torch.dtype:
        """float32, so that the division loses no precision."""
        return torch.float32

    def plan(self, sequences: Sequence[np.ndarray], max_tokens: int) -> list[list[int]]:
        """The model's plan."""
        return self._model.plan(sequences, max_tokens)

    def hidden(self, sequences: Sequence[np.ndarray], places: Sequence[np.ndarray]) -> Tensor:
        """The model's hidden states."""
        return self._model.hidden(sequences, places)

    def logits(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        """`[R, stop - start]` logits, divided by the temperature."""
        return self._model.logits(hidden, start, stop).float() / self._temperature


def at_temperature(model: Scorer, temperature: float) -> Scorer:
    """`model` at `temperature`; at 1 the model itself, in its own precision."""
    return model if temperature == 1.0 else AtTemperature(model, temperature)
