"""How much memory the trainer's process will need, by its largest parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from torch import nn

from preceptor_trainer.run.config import RunConfig

_BYTES: Final = 24
"""A parameter: weights, the sampler's copy, the published copy, gradient and two moments, in
float32."""
_LOGIT_BYTES: Final = 16
"""A logit of the largest pass: four copies in float32."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """An estimate, in bytes; activations are not in it."""

    parameters: int
    logits: int

    @property
    def trainer_words(self) -> str:
        """The estimate for a reader."""
        return (
            f"about {_gigabytes(self.parameters + self.logits)} and activations: weights, copies "
            f"and moments {_gigabytes(self.parameters)}, logits of one pass "
            f"{_gigabytes(self.logits)} (optim.tokens_per_microbatch)"
        )


def memory_of(model: nn.Module, config: RunConfig) -> Memory:
    """The estimate for training `model` as `config` says."""
    settings: Any = model.config
    vocab_size: int = settings.get_text_config().vocab_size
    longest = config.sampling.max_new_tokens * config.rollouts_per_problem
    # A step has no more response positions than its rollouts are long.
    positions = min(config.token_budget, longest * len(config.problems(0)))
    return Memory(
        parameters=_BYTES * sum(p.numel() for p in model.parameters()),
        logits=_LOGIT_BYTES * positions * vocab_size,
    )


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2g} GB"
