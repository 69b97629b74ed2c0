"""What an adapter is told of the server behind it."""

from __future__ import annotations

from dataclasses import dataclass

from preceptor_services.experts.remote.dialects import DIALECTS


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Options of every adapter."""

    url: str
    """Address of the server, with or without `/v1`."""
    tokenizer: str
    """Hugging Face folder with the student's tokenizer."""
    name: str
    """The expert's name in its answers."""
    model: str | None = None
    """Which of the server's models; the only one where absent."""
    key_file: str | None = None
    """Holds the key that the server asks for."""
    reads_feedback: bool = False
    """Puts the feedback of a query into the prompt; else the feedback is left out."""
    template: str = "compact"
    """`compact`, `papers`, or the path of a Jinja file."""
    max_batch: int = 16
    """Queries in one call."""
    max_concurrency: int = 4
    """Requests to the server at a time."""
    timeout_s: float = 120.0
    """Most seconds of one request, waiting and retries included."""
    start_timeout_s: float = 600.0
    """How long the server may take until it answers at the start; models load slowly."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url: {self.url!r} is no http address")
        for field in ("max_batch", "max_concurrency"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: {getattr(self, field)} is below 1")
        for field in ("timeout_s", "start_timeout_s"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field}: {getattr(self, field)} is not above 0")


@dataclass(frozen=True, kw_only=True)
class ScoringOptions(ServerOptions):
    """Options of the adapters for servers that give log-probs of a prompt."""

    dialect: str | None = None
    """`vllm`, `sglang` or `openai`; found by trial where absent."""
    max_top_k: int = 128
    """Entries of the server's per position; its own cap may be lower."""
    max_context: int | None = None
    """The server's tokens of prompt and response; what it says itself where absent."""
    cost_per_token: float | None = None
    """Price of a token of the response, in the deployment's unit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [d.name for d in DIALECTS]
        if self.dialect is not None and self.dialect not in names:
            raise ValueError(f"dialect: {self.dialect!r} is none of {names}")
        if self.max_top_k < 1:
            raise ValueError(f"max_top_k: {self.max_top_k} is below 1")
        if self.max_context is not None and self.max_context < 2:
            raise ValueError(f"max_context: {self.max_context} is below 2")
        if self.cost_per_token is not None and not self.cost_per_token >= 0:
            raise ValueError(f"cost_per_token: {self.cost_per_token} is below 0")
