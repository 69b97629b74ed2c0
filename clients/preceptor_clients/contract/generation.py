"""Sampling from a policy in another process: requests and replies of a service with `generate`.

    POST /v1/generate   GenerateCall -> GenerateReply: one result per query, in order
    POST /v1/sleep      SleepCall -> 204: the model gives its memory up, or takes it again

Messages carry ids, not text. Log-probs are those of the distribution that was drawn from: at
temperature 1 with all tokens allowed, the policy itself. The end token is the last id of a response
that stopped. Left out: stop strings, penalties, several policies in one query.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol, runtime_checkable

from pydantic import Field

from preceptor_clients.contract.arrays import Floats1, Ints1
from preceptor_clients.contract.errors import (
    Invalid,
    PreceptorError,
    ProblemDetails,
    VocabularyMismatch,
)
from preceptor_clients.contract.fingerprint import vocab_difference
from preceptor_clients.contract.schemas import (
    Answer,
    Capabilities,
    Name,
    Prompt,
    Request,
    ServiceInfo,
    VocabFingerprint,
    WantedWeights,
    WeightVersion,
)


class Sampling(Request):
    """How the next token is drawn; the defaults draw from the policy itself."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Divides the logits."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Keeps the smallest set of tokens with at least this mass; 1 keeps all."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Keeps this many tokens; 0 keeps all."""
    max_new_tokens: Annotated[int, Field(ge=1)]
    """Longest response, the end token included."""
    seed: int | None = None
    """Equal seeds on the same machine draw equal tokens, as far as the engine supports it."""


class GenerateQuery(Request):
    """Asks for responses of the policy to one prompt."""

    prompt: Prompt
    sampling: Sampling
    count: Annotated[int, Field(ge=1, le=1024)] = 1
    """Responses to this one prompt."""
    vocab_fingerprint: VocabFingerprint
    weights: WantedWeights | None = None


class Generated(Answer):
    """One response."""

    response_ids: Ints1
    """`[T]`"""
    logprobs_T: Floats1
    """Of each token, under the distribution that it was drawn from."""
    finish_reason: Literal["stop", "length"]


class GenerateAnswer(Answer):
    """All responses to one prompt."""

    responses: tuple[Generated, ...]
    vocab_fingerprint: VocabFingerprint
    sampler: Name
    sampler_version: str
    weights_before: WeightVersion | None = None
    weights_after: WeightVersion | None = None
    """Equal to `weights_before`: weights do not change while a response is drawn."""


class GenerateCall(Request):
    """`POST /v1/generate` of a service."""

    queries: tuple[GenerateQuery, ...]


class SleepCall(Request):
    """`POST /v1/sleep` of a service; 204."""

    asleep: bool
    """Whether its model gives its memory to another program on the same device, until it is woken.
    Both are idempotent."""


class GenerateResult(Answer):
    """One item of the reply: an answer or a problem."""

    answer: GenerateAnswer | None = None
    problem: ProblemDetails | None = None


class GenerateReply(Answer):
    """Reply to `GenerateCall`: one result per query, in order."""

    results: tuple[GenerateResult, ...]


@runtime_checkable
class GeneratingService(Protocol):
    """Draws responses."""

    def info(self) -> ServiceInfo: ...

    async def generate(
        self, queries: Sequence[GenerateQuery]
    ) -> Sequence[GenerateAnswer | PreceptorError]:
        """One reply per query, in order."""
        ...


@runtime_checkable
class SleepingService(Protocol):
    """Gives its device's memory up while nobody needs it."""

    async def sleep(self, call: SleepCall) -> None:
        """Puts the model to sleep, or wakes it; returns when it is so."""
        ...


def check_generate(query: GenerateQuery, capabilities: Capabilities) -> None:
    """Refuses what the declared capabilities rule out.

    Raises:
        VocabularyMismatch: The ids belong to another vocabulary than the service's.
        Invalid: An id is outside the vocabulary.
    """
    own = capabilities.vocab_fingerprint
    if own is None:
        raise VocabularyMismatch("this service declares no vocabulary", field="vocab_fingerprint")
    if query.vocab_fingerprint != own:
        raise VocabularyMismatch(
            vocab_difference("the service", own, "the query", query.vocab_fingerprint),
            field="vocab_fingerprint",
        )
    ids, size = query.prompt.ids, capabilities.vocab_size
    if ids is not None and size is not None and ids.max() >= size:
        raise Invalid(f"has the id {ids.max()} of a vocabulary of {size}", field="prompt.ids")
