"""How the next token is drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How the next token is drawn; the defaults draw from the policy itself."""

    temperature: float = 1.0
    """Divides the logits; above 0. Greedy is `top_k = 1`."""
    top_p: float = 1.0
    """Keeps the smallest set of tokens with at least this mass; 1 keeps all."""
    top_k: int = 0
    """Keeps this many tokens; 0 keeps all."""
    max_new_tokens: int = 48
    """Most tokens of a response, with the end token and without a forced prefix."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 0, got {self.top_k}")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
