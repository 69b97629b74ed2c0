"""Options of a judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from preceptor_clients.sdk.rubrics.judging import Form
from preceptor_clients.sdk.rubrics.rubric import Rubric, make_rubric

_FORMS = ("json", "words")


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Options of a judge."""

    url: str
    """Address of an OpenAI-compatible server, with or without `/v1`."""
    model: str
    """Name of the server's model."""
    criteria: Sequence[Mapping[str, Any]]
    """Tables with `name`, `question` (yes where it is met) and `weight` (1 where absent)."""
    columns: Sequence[str] = ()
    """Columns of the row that the judge reads beside prompt and response."""
    key_file: str | None = None
    """File with the server's key."""
    name: str = "judge"
    """The source's name in its answers."""
    form: Form = "json"
    """`json` asks with a schema, and again in words where that fails; `words` asks in words."""
    temperature: float = 0.0
    """Temperature of the judge's replies."""
    max_tokens: int = 512
    """Most tokens of one reply."""
    expert_may_see: bool = True
    """Whether experts may read the reasons of criteria that are not met."""
    price_input: float = 0.0
    """Price of a million tokens that the judge reads, in the deployment's unit."""
    price_output: float = 0.0
    """Price of a million tokens that it writes."""
    max_calls: int | None = None
    """Budget: most requests to the server while this process runs; no bound where absent."""
    budget_tokens: int | None = None
    """Budget: most tokens, read and written; requests under way may exceed it. No bound where
    absent."""
    cached: int = 10_000
    """Judgements that are kept, so that the same response to the same prompt costs nothing."""
    max_batch: int = 64
    """Queries in one call."""
    max_concurrency: int = 8
    """Concurrent requests to the server."""
    timeout_s: float = 120.0
    """Timeout in seconds of one request, with waiting and retries."""
    max_reply_bytes: int = 1 << 20
    """A longer reply is an error."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url: {self.url!r} is not an http address")
        if self.form not in _FORMS:
            raise ValueError(f"form: {self.form!r} is not one of {', '.join(_FORMS)}")
        counts = ("max_tokens", "cached", "max_batch", "max_concurrency", "max_reply_bytes")
        for name in (*counts, "max_calls", "budget_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value} is below 1")
        for name in ("temperature", "price_input", "price_output"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: {getattr(self, name)} is below 0")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s: {self.timeout_s} is not above 0")
        _ = self.rubric

    @cached_property
    def rubric(self) -> Rubric:
        """The criteria, checked."""
        return make_rubric(self.criteria, self.columns)
