"""Options for the server behind an adapter."""

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
    """Name of the server's model; may be absent where the server has only one."""
    key_file: str | None = None
    """File with the server's key."""
    reads_feedback: bool = False
    """Whether the feedback of a query is put into the prompt; else it is left out."""
    template: str = "compact"
    """`compact`, `papers`, `sdpo`, or the path of a Jinja file."""
    max_batch: int = 16
    """Queries in one call."""
    max_concurrency: int = 4
    """Concurrent requests to the server."""
    timeout_s: float = 120.0
    """Timeout in seconds of one request, with waiting and retries."""
    start_timeout_s: float = 600.0
    """Timeout in seconds for the first answer of the server, which may still load its model."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url: {self.url!r} is not an http address")
        for field in ("max_batch", "max_concurrency"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: {getattr(self, field)} is below 1")
        for field in ("timeout_s", "start_timeout_s"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field}: {getattr(self, field)} is not above 0")
