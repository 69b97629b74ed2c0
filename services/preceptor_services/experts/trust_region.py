"""A teacher held near a reference: the geometric mixture of two models.

    q(v|s)  proportional to  q_reference(v|s)^(1 - share) * q_student(v|s)^share

which is a linear interpolation of logits, normalised once. It is the teacher closest to the student
under a bound on the KL divergence from the reference. Source: SDPO (arXiv 2601.20802), where it is
as good as the moving average.

For the scoring engine it is one model (`engine.models.Scorer`); it costs a second forward pass.

Dimensions: R rows (queried positions), H of a hidden state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from preceptor_services.experts.engine.models import Scorer


class GeometricMixture:
    """Two models of one vocabulary, scored as one."""

    def __init__(self, reference: Scorer, student: Scorer, *, share: float) -> None:
        self._reference = reference
        self._student = student
        self._share = share

    @property
    def device(self) -> torch.device:
        """Device of both models."""
        return self._student.device

    @property
    def num_logits(self) -> int:
        """Rows of either head."""
        return self._student.num_logits

    @property
    def logits_dtype(self) -> torch.dtype:
        """float32, so that the interpolation loses no precision."""
        return torch.float32

    def plan(self, sequences: Sequence[np.ndarray], max_tokens: int) -> list[list[int]]:
        """The student's plan: both have the same architecture and run one after the other."""
        return self._student.plan(sequences, max_tokens)

    def hidden(self, sequences: Sequence[np.ndarray], places: Sequence[np.ndarray]) -> Tensor:
        """Hidden states of both, side by side, `[R, 2, H]`."""
        states = [model.hidden(sequences, places) for model in (self._reference, self._student)]
        return torch.stack(states, dim=1)

    def logits(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        """`[R, stop - start]` interpolated logits."""
        # Logits are mixed instead of log-probs: their normalisers are one number per row, which the
        # normaliser of the mixture cancels.
        reference = self._reference.logits(hidden[:, 0], start, stop).float()
        student = self._student.logits(hidden[:, 1], start, stop).float()
        return torch.lerp(reference, student, self._share)
