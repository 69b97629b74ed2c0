"""The sampler in the trainer's process, on a copy of the policy's model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from torch import nn

from preceptor_trainer.model.weights import take_weights
from preceptor_trainer.sampling.local import LocalSampler
from preceptor_trainer.sampling.sampler import Generation, Published, SampleRequest


class InProcessSampler:
    """Samples from `model`, in a thread; it shares the model's weights.

    The model is the sampler's own: from the first `load` on, its weights are the version's tensors.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        end_ids: Collection[int],
        pad_id: int,
        vocab_size: int | None = None,
    ) -> None:
        self._model = model
        self._version: str | None = None
        self._sampler = LocalSampler(model, end_ids=end_ids, pad_id=pad_id, vocab_size=vocab_size)

    @property
    def version(self) -> str:
        """The loaded version."""
        assert self._version is not None, "no version was loaded"
        return self._version

    async def takes_adapters(self) -> bool:
        """It does: it has the tensors and reads no files."""
        return True

    async def load(self, published: Published) -> None:
        """Makes the version's tensors the model's weights."""
        if published.version != self._version:
            # In a thread: copying the weights of a large model would keep the event loop waiting.
            await asyncio.to_thread(take_weights, self._model, published.tensors)
            self._version = published.version

    async def sample(self, request: SampleRequest) -> list[list[Generation]]:
        """Like `Sampler.sample`, without blocking the event loop."""
        n = request.num_samples
        prompts = [ids for ids in request.prompts for _ in range(n)]
        forced = request.forced_prefixes
        repeated = None if forced is None else [ids for ids in forced for _ in range(n)]
        flat = await asyncio.to_thread(
            self._sampler.sample,
            prompts,
            request.params,
            request.generator,
            repeated,
            on_finished=_in_this_loop(request),
        )
        return [flat[i : i + n] for i in range(0, len(flat), n)]


def _in_this_loop(request: SampleRequest) -> Callable[[int, Generation], None] | None:
    """The request's `on_finished` for a sampler that runs in another thread."""
    call, loop = request.on_finished, asyncio.get_running_loop()
    if call is None:
        return None

    def finished(row: int, generation: Generation) -> None:
        loop.call_soon_threadsafe(call, *divmod(row, request.num_samples), generation)

    return finished
