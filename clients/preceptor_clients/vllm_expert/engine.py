"""The vLLM engine in the service's process; `worker.py` has the code in vLLM's workers.

Written against vLLM 0.32: `AsyncLLM`, and `SamplingParams(flat_logprobs=...)`. Prompt
log-probs are of the raw logits, without a temperature. Log-probs of drawn tokens are `processed`:
of the distribution that they were drawn from. vLLM is imported when an engine starts.
"""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from preceptor_clients.contract.control_tokens import end_ids
from preceptor_clients.contract.errors import Invalid, ServiceFailed, ServiceUnavailable
from preceptor_clients.contract.generation import Generated, Sampling
from preceptor_clients.vllm_expert.config import VLLMExpertConfig
from preceptor_clients.vllm_expert.flat import FlatLogprobs
from preceptor_clients.vllm_expert.worker import PolicyWorker

_INITIAL = "initial"


def vllm_version() -> str:
    """The version of the installed vLLM.

    Raises:
        ValueError: vLLM is not installed.
    """
    try:
        return str(importlib.import_module("vllm").__version__)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"vllm: {error.name} is not installed; this service runs in an environment of its own, "
            "with `pip install 'preceptor[vllm]'`"
        ) from error


class Scores(NamedTuple):
    """vLLM's scores of one sequence."""

    flat: FlatLogprobs
    candidates_TC: Any
    """Array of float32, where the query has candidates."""


class Engine:
    """A running vLLM engine. Build it in the event loop that will use it."""

    def __init__(self, config: VLLMExpertConfig) -> None:
        arguments: Any = importlib.import_module("vllm.engine.arg_utils")
        self._params: Any = importlib.import_module("vllm.sampling_params")
        self._errors: Any = importlib.import_module("vllm.v1.engine.exceptions")
        probe = arguments.AsyncEngineArgs(model=config.model).create_model_config()
        rows: int = probe.get_vocab_size()
        self.head_size = rows
        args = arguments.AsyncEngineArgs(
            **{
                "enable_prefix_caching": False,
                "disable_log_stats": True,
                "generation_config": "vllm",
            }
            | dict(config.engine),
            model=config.model,
            dtype=config.dtype,
            max_model_len=None if config.max_context is None else config.max_context + 1,
            max_logprobs=min(config.max_top_k, rows),
            logprobs_mode="processed_logprobs",
            max_num_batched_tokens=config.chunk_tokens(rows),
            worker_extension_cls=f"{PolicyWorker.__module__}.{PolicyWorker.__qualname__}",
        )
        async_llm: Any = importlib.import_module("vllm.v1.engine.async_llm")
        self._llm: Any = async_llm.AsyncLLM.from_engine_args(args)
        self.tokenizer: Any = self._llm.get_tokenizer()
        self._end_ids = sorted(end_ids(self.tokenizer))
        vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        vocab_size = 1 + max(vocabulary.values())
        # Rows of the head beyond the vocabulary are no tokens; untrained ones may be drawn.
        self._drawn_ids = list(range(vocab_size)) if vocab_size < rows else None
        vllm_config: Any = self._llm.vllm_config
        self.max_context: int = vllm_config.model_config.max_model_len - 1
        """Tokens of context and response; vLLM needs room for one more, which it draws."""
        cache: Any = vllm_config.cache_config
        self.cache_tokens: int = cache.kv_cache_size_tokens or (
            cache.num_gpu_blocks * cache.block_size
        )
        """Tokens whose keys and values fit; beyond that vLLM preempts and restarts sequences."""

        self.scores_candidates: bool = (
            vllm_config.use_v2_model_runner and not cache.kv_sharing_fast_prefill
        )
        """Whether candidates can be scored, which only vLLM's newer model runner can."""

    @property
    def alive(self) -> bool:
        """Whether the engine is running."""
        return not self._llm.errored

    def close(self) -> None:
        """Ends its processes."""
        self._llm.shutdown()

    async def score(
        self, ids: Sequence[int], top_k: int, candidate_ids_TC: np.ndarray | None = None
    ) -> Scores:
        """Log-probs of `ids` at each position: of its token and of the `top_k` best.

        Args:
            ids: Context and response.
            top_k: Best entries.
            candidate_ids_TC: Ids to score at the last T positions, -1 is padding.
        """
        params = self._params.SamplingParams(
            max_tokens=1,
            temperature=1.0,
            prompt_logprobs=top_k,
            flat_logprobs=True,
            detokenize=False,
            output_kind=self._params.RequestOutputKind.FINAL_ONLY,
            **_candidates(ids, candidate_ids_TC),
        )
        output = await self._ask(ids, params)
        if list(output.prompt_token_ids) != list(ids):
            raise ServiceFailed("vLLM returned other prompt ids than were sent")
        found = None if candidate_ids_TC is None else output.prompt_token_id_logprobs
        return Scores(output.prompt_logprobs, found)

    async def sample(self, ids: Sequence[int], sampling: Sampling, count: int) -> list[Generated]:
        """`count` responses to the context `ids`."""
        params = self._params.SamplingParams(
            n=count,
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=sampling.seed,
            stop_token_ids=self._end_ids,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=self._params.RequestOutputKind.FINAL_ONLY,
            allowed_token_ids=self._drawn_ids,
        )
        output = await self._ask(ids, params)
        return [_generated(one) for one in sorted(output.outputs, key=lambda one: one.index)]

    async def load(self, folder: Path, version: str | None) -> None:
        """Loads the weights of `folder`. No query may be running."""
        await self._llm.collective_rpc("take_weights", args=(str(folder),))
        await self._llm.reset_prefix_cache()
        await self._llm.update_weight_version(version or _INITIAL)

    async def version(self) -> str | None:
        """The version of the weights, as the engine reports it."""
        said = await self._llm.get_weight_version()
        return said if "/" in said else None

    async def sleep(self) -> None:
        """Weights go to main memory, keys and values away. No query may be running.

        Raises:
            Invalid: The engine was not started for it.
        """
        config: Any = self._llm.vllm_config
        on_gpu = not str(config.device_config.device).startswith("cpu")
        if on_gpu and not config.model_config.enable_sleep_mode:
            raise Invalid(
                "the engine does not sleep; start the service with "
                """`--option engine='{"enable_sleep_mode": true}'`"""
            )
        await self._llm.sleep(level=1)

    async def wake(self) -> None:
        """Takes the memory again; nothing happens where it is awake.

        Raises:
            ServiceFailed: It is still asleep.
        """
        await self._llm.wake_up()
        if await self._llm.is_sleeping():
            raise ServiceFailed("vLLM's engine did not wake; start the service again")

    async def _ask(self, ids: Sequence[int], params: Any) -> Any:
        last: Any = None
        request_id = uuid.uuid4().hex
        try:
            prompt = {"prompt_token_ids": list(ids)}
            async for output in self._llm.generate(prompt, params, request_id):
                last = output
        except self._errors.EngineDeadError as error:
            raise ServiceUnavailable(
                "vLLM's engine has stopped; see its log for the reason"
            ) from error
        except self._errors.EngineGenerateError as error:
            raise ServiceFailed(f"vLLM: {error.__cause__ or error}") from error
        except ValueError as error:
            raise Invalid(f"vLLM refused the request: {error}") from error
        if last is None or not last.finished:
            raise ServiceFailed("vLLM aborted the request")
        return last


def _candidates(ids: Sequence[int], candidate_ids_TC: np.ndarray | None) -> dict[str, Any]:
    """Sampling arguments for the candidates. In vLLM row i is about token i + 1."""
    if candidate_ids_TC is None:
        return {}
    return {
        "prompt_logprob_token_ids": candidate_ids_TC,
        "prompt_logprob_start": len(ids) - len(candidate_ids_TC) - 1,
    }


def _generated(output: Any) -> Generated:
    flat, ids = output.logprobs, np.array(output.token_ids, np.int32)
    own = np.array(flat.start_indices[: len(ids)])
    if not np.array_equal(np.array(flat.token_ids, np.int32)[own], ids):
        raise ServiceFailed("vLLM returned log-probs of other tokens than it drew")
    logprobs = np.minimum(np.array(flat.logprobs, np.float32)[own], 0.0)
    return Generated(
        response_ids=ids,
        logprobs_T=logprobs,
        finish_reason="stop" if output.finish_reason == "stop" else "length",
    )
