"""Options of an expert that only samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from preceptor_services.experts.remote.options import ServerOptions
from preceptor_services.experts.remote.positions import Choice

_CHOICES: Final = ("random", "entropy", "feedback")


@dataclass(frozen=True, kw_only=True)
class SampleOnlyConfig(ServerOptions):
    """Each field is an option of the service."""

    name: str = "sample-only"
    reads_feedback: bool = True
    start_timeout_s: float = 60.0
    api: Literal["chat", "completions"] = "chat"
    """Messages, or one text made with the student's chat template."""
    message_fields: dict[str, Any] = field(default_factory=dict[str, Any])
    """Added to the assistant's message that is to be continued."""
    body_fields: dict[str, Any] | None = None
    """Added to the request that continues one; what vLLM and SGLang want where absent."""
    choose: Choice = "random"
    """How positions are drawn: equally, by the student's entropy where the query has it, or more
    often where feedback points."""
    draws: int = 8
    """Continuations at each position."""
    draws_per_call: int = 8
    """How many the API gives in one call; 1 for one that knows no `n`."""
    draw_tokens: int = 8
    """Tokens of each continuation; enough for the longest token of the student's vocabulary."""
    min_kept: float = 0.5
    """A position with a smaller share of draws that tell a token has no opinion."""
    max_calls: int = 8
    """Calls for one query; positions are as many as they pay for."""
    max_calls_in_all: int | None = None
    """Calls until this process ends; then queries are refused."""
    cost_per_call: float | None = None
    """Price of a call, in the deployment's unit; what was spent then stands in each answer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.api not in ("chat", "completions"):
            raise ValueError(f"api: {self.api!r} is neither 'chat' nor 'completions'")
        if self.choose not in _CHOICES:
            raise ValueError(f"choose: {self.choose!r} is none of {_CHOICES}")
        for name in ("draws", "draws_per_call", "max_calls"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is below 1")
        if self.draw_tokens < 2:
            raise ValueError(f"draw_tokens: {self.draw_tokens} is below 2: no token would be whole")
        if not 0 < self.min_kept <= 1:
            raise ValueError(f"min_kept: {self.min_kept} is not in (0, 1]")
        if self.cost_per_call is not None and not self.cost_per_call >= 0:
            raise ValueError(f"cost_per_call: {self.cost_per_call} is below 0")
        if self.calls_per_position > self.max_calls:
            raise ValueError(
                f"max_calls: {self.max_calls} do not pay for one position, which takes "
                f"{self.calls_per_position}"
            )

    @property
    def calls_per_position(self) -> int:
        """Calls that the draws at one position take."""
        return -(-self.draws // self.draws_per_call)
