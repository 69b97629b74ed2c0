"""The dialect of a server that `vllm serve` started; written against vLLM 0.32.

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs \\
        --worker-extension-cls preceptor_clients.vllm_expert.worker.PolicyWorker

Tokens: `/v1/completions` with prompt ids, `logprobs` and `return_token_ids`. Sleep: the routes of
its development mode. Weights are in `vllm_weights.py`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from preceptor_clients.contract.errors import PreceptorError, ServiceFailed
from preceptor_clients.contract.generation import Generated
from preceptor_trainer.sampling.dialect import (
    Calls,
    Draw,
    Student,
    UnfitServer,
    WeightPath,
    check_tokenizer,
    malformed,
)
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.sampling.sampler import Published
from preceptor_trainer.sampling.vllm_weights import VLLMWeights, cards_of

_PATH: Final = "/v1/completions"
_ROUNDING: Final = 1e-3


class VLLMServer:
    """A server of vLLM's; see `Dialect`."""

    def __init__(
        self, student: Student, *, shared: bool = False, path: WeightPath = "files"
    ) -> None:
        """Asks nothing yet.

        Args:
            student: The run's.
            shared: Whether adapters of other runs are left alone.
            path: How the server gets weights.
        """
        self._student = student
        self._shared = shared
        self._path: WeightPath = path
        self._config: dict[str, Any] = {}
        """vLLM's configuration, where it runs in its development mode."""
        self._weights: VLLMWeights

    async def start(self, calls: Calls) -> None:
        """Finds the server's model, its configuration and its kind of log-probs."""
        # All names of one model come first, and adapters have a parent.
        own = [card["id"] for card in await cards_of(calls) if card.get("parent") is None]
        await check_tokenizer(calls, self._student, own[0])
        info = await calls.finds("/server_info?config_format=json")
        config = None if info is None else info["vllm_config"]
        self._config = config or {}
        self._weights = VLLMWeights(
            model=own[0],
            config=config,
            is_tied=self._student.is_tied,
            shared=self._shared,
            path=self._path,
        )
        await self._check_logprobs(calls)

    async def takes_adapters(self, calls: Calls) -> bool:
        """Whether it loads adapters while it runs."""
        return await self._weights.takes_adapters(calls)

    async def load(self, calls: Calls, published: Published, *, own: bool) -> None:
        """Loads an adapter under its name, and a whole version in the place of the last one."""
        await self._weights.load(calls, published, own=own)

    async def check(self, calls: Calls, params: SamplingParams, version: str) -> None:
        """Checks the weights; log-probs are of what is drawn, however that is."""
        del params
        await self._weights.check(calls, version)

    async def draw(self, calls: Calls, draw: Draw) -> list[Generated]:
        """One request for all responses to a prompt."""
        drawn = await self._complete(calls, draw.ids, _sampling(draw, self._student))
        await self._weights.check(calls, draw.version)
        return drawn

    async def sleep(self, calls: Calls) -> None:
        """Weights go to main memory, keys and values away; no request is under way."""
        device = self._config.get("device_config", {}).get("device")
        has_sleep_mode = self._config.get("model_config", {}).get("enable_sleep_mode")
        if not str(device).startswith("cpu") and not has_sleep_mode:
            raise _sleepless(calls)
        await calls.post("/sleep?level=1")

    async def wake(self, calls: Calls) -> None:
        """Wakes it, whoever put it to sleep."""
        try:
            await calls.post("/wake_up")
            state = await calls.get("/is_sleeping")
        except PreceptorError as error:
            if error.status == 404:
                raise _sleepless(calls) from error
            raise
        if state["is_sleeping"]:
            raise ServiceFailed(f"the server at {calls.url} did not wake; start it again")

    async def _complete(self, calls: Calls, ids: Any, sampling: dict[str, Any]) -> list[Generated]:
        asked = self._weights.asked
        body = {
            "model": asked,
            "prompt": list(ids),
            "logprobs": 0,
            "return_token_ids": True,
            **sampling,
        }
        reply = await calls.post(_PATH, body)
        try:
            if reply["model"] != asked:
                raise ServiceFailed(f"{calls.url} answered as {reply['model']}, not {asked}")
            choices = sorted(reply["choices"], key=lambda choice: choice["index"])
            if any(choice["prompt_token_ids"] != list(ids) for choice in choices):
                raise ServiceFailed(f"{calls.url} read other prompt ids than were sent")
            return [_generated(choice) for choice in choices]
        except (TypeError, KeyError, ValueError) as error:
            raise malformed(calls, _PATH, repr(error)) from error

    async def _check_logprobs(self, calls: Calls) -> None:
        """Checks that log-probs are of what may be drawn: where that is one token, they are 0.

        Two tokens, because the raw distribution cannot be nearly certain of both.

        Raises:
            UnfitServer: they are of the raw logits, or no log-probs.
        """
        ids = self._student.probe_ids
        for one in list(dict.fromkeys(ids))[:2]:
            sampling = {"max_tokens": 1, "temperature": 1.0, "allowed_token_ids": [one]}
            [drawn] = await self._complete(calls, ids, sampling)
            if drawn.response_ids.tolist() != [one]:
                raise ServiceFailed(f"{calls.url} drew a token that it was not allowed to draw")
            if abs(drawn.logprobs_T[0]) > _ROUNDING:
                raise UnfitServer(
                    f"the server at {calls.url} gives {drawn.logprobs_T[0]:.3g} as the log-prob of "
                    "the only token that may be drawn, so that it is not of what is drawn; start "
                    "it with --logprobs-mode processed_logprobs"
                )


def _sleepless(calls: Calls) -> UnfitServer:
    return UnfitServer(
        f"rollout.sampler.sleeps: the server at {calls.url} does not sleep; start it with "
        "--enable-sleep-mode, and VLLM_SERVER_DEV_MODE=1 in its environment"
    )


def _sampling(draw: Draw, student: Student) -> dict[str, Any]:
    """Everything that changes a distribution, so that no default of the server's does."""
    bias = student.padding_bias()
    return {
        "n": draw.count,
        "max_tokens": draw.params.max_new_tokens,
        "temperature": draw.params.temperature,
        "top_p": draw.params.top_p,
        "top_k": draw.params.top_k,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "seed": draw.seed,
        # The student's end tokens and no others.
        "ignore_eos": True,
        "stop_token_ids": sorted(student.end_ids),
        **({"logit_bias": bias} if bias else {}),
    }


def _generated(choice: dict[str, Any]) -> Generated:
    reason = choice["finish_reason"]
    if reason not in ("stop", "length"):
        raise ValueError(f"a response ended by {reason!r}")
    if choice["token_ids"] is None:
        raise ValueError("choices have no token_ids")
    return Generated(
        response_ids=np.array(choice["token_ids"], np.int32),
        logprobs_T=np.array(choice["logprobs"]["token_logprobs"], np.float32),
        finish_reason=reason,
    )
