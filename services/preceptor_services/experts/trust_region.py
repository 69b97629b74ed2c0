"""A teacher held near a reference: the geometric mixture of two models.

    q(v|s)  proportional to  q_reference(v|s)^(1 - share) * q_student(v|s)^share

which is a linear interpolation of logits, normalised once. It is what a teacher may be at most that
moves towards the student under a bound on its KL divergence from the reference. Source: SDPO (arXiv
2601.20802), where it is as good as the moving average.

It offers of a causal model what `scoring.score` reads, and costs a second forward pass.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


class GeometricMixture:
    """Two models of one vocabulary, scored as one."""

    def __init__(self, reference: Any, student: Any, *, share: float) -> None:
        self._reference = reference
        self._student = student
        self._share = share

    @property
    def device(self) -> torch.device:
        """Where both compute."""
        return self._student.device

    def base_model(self, *, input_ids: Tensor, use_cache: bool) -> SimpleNamespace:
        """Hidden states of both, side by side, [B, L, 2, H]."""
        states = [
            model.base_model(input_ids=input_ids, use_cache=use_cache).last_hidden_state
            for model in (self._reference, self._student)
        ]
        return SimpleNamespace(last_hidden_state=torch.stack(states, dim=2))

    def get_output_embeddings(self) -> MixedHead:
        """The head of both."""
        return MixedHead(
            self._reference.get_output_embeddings(),
            self._student.get_output_embeddings(),
            share=self._share,
        )


class MixedHead:
    """Interpolates the logits of two heads."""

    def __init__(self, reference: Any, student: Any, *, share: float) -> None:
        self._reference = reference
        self._student = student
        self._share = share

    @property
    def weight(self) -> Tensor:
        """The student's, for its shape."""
        return self._student.weight

    def __call__(self, hidden_R2H: Tensor) -> Tensor:
        """[R, V] logits, in float32 so that interpolating loses nothing."""
        reference_RV: Tensor = self._reference(hidden_R2H[:, 0]).float()
        student_RV: Tensor = self._student(hidden_R2H[:, 1]).float()
        return torch.lerp(reference_RV, student_RV, self._share)
