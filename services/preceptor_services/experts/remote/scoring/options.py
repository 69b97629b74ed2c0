"""Options for a server that returns log-probs of a prompt."""

from __future__ import annotations

from dataclasses import dataclass

from preceptor_services.experts.remote.options import ServerOptions
from preceptor_services.experts.remote.scoring.dialects import DIALECTS


@dataclass(frozen=True, kw_only=True)
class ScoringOptions(ServerOptions):
    """Options of the adapters for servers that return log-probs of a prompt."""

    dialect: str | None = None
    """`vllm`, `sglang` or `openai`; detected where absent."""
    max_top_k: int = 128
    """Most entries per position to request; the server's own cap may be lower."""
    max_context: int | None = None
    """Most tokens of prompt and response; the server's own value where absent."""
    cost_per_token: float | None = None
    """Price of a token of the response, in the deployment's unit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [d.name for d in DIALECTS]
        if self.dialect is not None and self.dialect not in names:
            raise ValueError(f"dialect: {self.dialect!r} is not one of {names}")
        if self.max_top_k < 1:
            raise ValueError(f"max_top_k: {self.max_top_k} is below 1")
        if self.max_context is not None and self.max_context < 2:
            raise ValueError(f"max_context: {self.max_context} is below 2")
        if self.cost_per_token is not None and not self.cost_per_token >= 0:
            raise ValueError(f"cost_per_token: {self.cost_per_token} is below 0")
