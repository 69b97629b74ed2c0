"""What an adapter is told of the server behind it."""

from __future__ import annotations

from dataclasses import dataclass


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
