"""The interface between a run and the sampler of its responses.

    await sampler.load(published)
    groups = await sampler.sample(SampleRequest(prompts=prompts, generator=generator))

Prompts and responses are token ids, never text, so that training uses exactly the drawn tokens. The
sampler in the trainer's process is `in_process.py`; `service.py` asks one behind `/v1/generate`,
`server.py` a server of vLLM's or SGLang's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from preceptor_clients.contract.schemas import WeightManifest
from preceptor_trainer.sampling.params import SamplingParams


@dataclass(frozen=True, kw_only=True)
class Published:
    """One version of the policy, as a sampler needs it."""

    version: str
    tensors: Mapping[str, torch.Tensor]
    """By name. They never change, so that samplers may compute with them."""
    manifest: WeightManifest | None = None
    """Where its files are; None where it was not written for other processes."""
    base: WeightManifest | None = None
    """The version that its files are an adapter of; None where they are all weights."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One response. The first `num_forced` tokens were given, not drawn."""

    response_ids: npt.NDArray[np.int32]
    """`[T]`, a forced prefix first, the end token last when it was drawn."""
    logprobs: npt.NDArray[np.float32]
    """`[T]` under the sampling distribution; forced tokens with the temperature only, or NaN."""
    finish_reason: Literal["stop", "length"]
    num_forced: int = 0


OnFinished: TypeAlias = Callable[[int, int, Generation], None]
"""Takes a response as soon as it has ended: number of its prompt, its number among the prompt's
responses, and the response."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleRequest:
    """A request for responses."""

    prompts: Sequence[Sequence[int]]
    """Token ids of each context, not empty."""
    num_samples: int = 1
    """Responses to each prompt."""
    params: SamplingParams = SamplingParams()
    """How tokens are drawn."""
    generator: torch.Generator
    """The only source of randomness; a remote sampler draws its seed from it."""
    forced_prefixes: Sequence[Sequence[int]] | None = None
    """Given first response tokens, one list (possibly empty) per prompt."""
    on_finished: OnFinished | None = None
    """Called in the event loop while other responses are still drawn. A sampler may call it for
    some responses or for none; all are returned at the end in any case."""


@runtime_checkable
class SleepingSampler(Protocol):
    """A sampler that may leave its device's memory to the update."""

    @property
    def sleeps(self) -> bool:
        """Whether it is to."""
        ...

    async def sleep(self) -> None:
        """Gives its memory up until it is woken."""
        ...

    async def wake(self) -> None:
        """Takes its memory again; nothing happens where it is awake."""
        ...


class Sampler(Protocol):
    """Draws responses of one version of the policy."""

    @property
    def version(self) -> str:
        """The loaded version."""
        ...

    async def takes_adapters(self) -> bool:
        """Whether it can load versions whose files are an adapter."""
        ...

    async def load(self, published: Published) -> None:
        """Loads a version; later samples are drawn from it."""
        ...

    async def sample(self, request: SampleRequest) -> list[list[Generation]]:
        """`num_samples` responses to each prompt, in the order of the prompts."""
        ...
