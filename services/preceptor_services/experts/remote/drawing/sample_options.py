"""Options of an expert that draws samples from a text API."""

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
    """`chat`: messages; `completions`: one text made with the student's chat template."""
    message_fields: dict[str, Any] = field(default_factory=dict[str, Any])
    """Fields to add to the assistant's message, which the API continues."""
    body_fields: dict[str, Any] | None = None
    """Fields to add to the request; by default those of vLLM and SGLang for a continuation."""
    choose: Choice = "random"
    """Probabilities of the positions: equal, by the student's entropy where the query has it, or
    higher where the feedback refers to."""
    draws: int = 8
    """Continuations at each position."""
    draws_per_call: int = 8
    """Continuations per call; 1 for an API that does not support `n`."""
    draw_tokens: int = 8
    """Tokens of each continuation; enough for the longest token of the student's vocabulary."""
    min_kept: float = 0.5
    """A position with a smaller share of usable draws is masked."""
    max_calls: int = 8
    """Most calls for one query; this limits the number of positions."""
    max_calls_in_all: int | None = None
    """Most calls of this process; after them queries are refused."""
    cost_per_call: float | None = None
    """Price of a call, in the deployment's unit; each answer then has its cost."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.api not in ("chat", "completions"):
            raise ValueError(f"api: {self.api!r} is neither 'chat' nor 'completions'")
        if self.choose not in _CHOICES:
            raise ValueError(f"choose: {self.choose!r} is not one of {_CHOICES}")
        for name in ("draws", "draws_per_call", "max_calls"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is below 1")
        if self.draw_tokens < 2:
            raise ValueError(
                f"draw_tokens: {self.draw_tokens} is below 2, which is needed for a complete token"
            )
        if not 0 < self.min_kept <= 1:
            raise ValueError(f"min_kept: {self.min_kept} is not in (0, 1]")
        if self.cost_per_call is not None and not self.cost_per_call >= 0:
            raise ValueError(f"cost_per_call: {self.cost_per_call} is below 0")
        if self.calls_per_position > self.max_calls:
            raise ValueError(
                f"max_calls: {self.max_calls} is below the {self.calls_per_position} calls of one "
                "position"
            )

    @property
    def calls_per_position(self) -> int:
        """Number of calls for the draws at one position."""
        return -(-self.draws // self.draws_per_call)
