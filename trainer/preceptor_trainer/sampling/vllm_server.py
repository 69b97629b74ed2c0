"""The dialect of a server that `vllm serve` started; written against vLLM 0.32.

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs \\
        --worker-extension-cls preceptor_clients.vllm_expert.worker.PolicyWorker

Tokens: `/v1/completions` with prompt ids, `logprobs` and `return_token_ids`. Whole versions: vLLM
reloads in place by `/collective_rpc`, and `/weight_info` says which one it holds; these routes
exist in its development mode. Adapters: `/v1/load_lora_adapter`, under the name of the version,
which each request then asks for. Several runs may share a server, each with adapters of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from preceptor_clients.contract.errors import PreceptorError, ServiceFailed
from preceptor_clients.contract.generation import Generated
from preceptor_clients.contract.schemas import WeightManifest
from preceptor_clients.sdk.adapters import FIRST_ADAPTER
from preceptor_clients.vllm_expert.worker import PolicyWorker
from preceptor_trainer.sampling.dialect import (
    Calls,
    Draw,
    Student,
    UnfitServer,
    check_tokenizer,
    check_untouched,
    folder_of,
    malformed,
)
from preceptor_trainer.sampling.params import SamplingParams

_PATH: Final = "/v1/completions"
EXTENSION: Final = f"{PolicyWorker.__module__}.{PolicyWorker.__qualname__}"
_ROUNDING: Final = 1e-3


class VLLMServer:
    """A server of vLLM's; see `Dialect`."""

    def __init__(self, student: Student, *, shared: bool = False) -> None:
        """Asks nothing yet.

        Args:
            student: The run's.
            shared: Whether adapters of other runs are left alone.
        """
        self._student = student
        self._shared = shared
        self._model = ""
        self._asked = ""
        """The model that requests name: the server's own, or an adapter's version."""
        self._config: dict[str, Any] | None = None
        """vLLM's configuration; None where the server does not run in its development mode."""
        self._weights: str | None = None
        """What `/weight_info` has to say."""
        self._has_loaded = False
        """Whether this process has loaded an adapter."""
        self._adapters: dict[str, str] = {}
        """This run's adapters that may be loaded, with their folders: the version's, if any."""

    async def start(self, calls: Calls) -> None:
        """Finds the server's model, its configuration and its kind of log-probs."""
        # All names of one model come first, and adapters have a parent.
        own = [card["id"] for card in await _cards(calls) if card.get("parent") is None]
        self._model = self._asked = own[0]
        await check_tokenizer(calls, self._student, self._model)
        info = await calls.finds("/server_info?config_format=json")
        self._config = None if info is None else info["vllm_config"]
        await self._check_logprobs(calls)

    async def takes_adapters(self, calls: Calls) -> bool:
        """Whether it loads adapters while it runs."""
        if self._config is not None and self._config.get("lora_config") is None:
            return False
        try:
            await calls.post("/v1/load_lora_adapter", {})
        except PreceptorError as error:
            return error.status != 404
        return True

    async def load(self, calls: Calls, manifest: WeightManifest, *, own: bool) -> None:
        """Loads an adapter under its name, and a whole version in the place of the last one."""
        if manifest.base is None and not own:
            await self._load_whole(calls, manifest)
        else:
            check_untouched(calls, await self._held(calls))
        adapter = _adapter_of(manifest, own=own)
        if adapter is None and self._shared:
            # vLLM 0.32 on a CPU draws wrongly from its own model beside an adapter.
            raise UnfitServer(
                f"rollout.sampler.shared: {folder_of(manifest)} has no folder {FIRST_ADAPTER!r}: "
                "peft's files cannot describe this model's adapter; give the run a server of its "
                "own, without `shared`"
            )
        await self._ask_for(calls, manifest.version, adapter)
        self._weights = await self._held(calls)

    async def _ask_for(self, calls: Calls, version: str, adapter: Path | None) -> None:
        """Names an adapter in requests, or the server's own model, and unloads all others."""
        self._asked, self._adapters = self._model, {}
        if adapter is not None:
            if not self._has_loaded and self._config is not None:
                # Its keys are name and folder, where an earlier run may have had other weights.
                await calls.post("/reset_prefix_cache")
            self._has_loaded = True
            await self._load_adapter(calls, version, adapter)
            self._asked, self._adapters = version, {version: str(adapter)}
        for name in (await self._own_adapters(calls)).keys() - self._adapters.keys():
            await calls.drops("/v1/unload_lora_adapter", {"lora_name": name})

    async def _own_adapters(self, calls: Calls) -> dict[str, str]:
        """The loaded adapters that other runs have no part in, with their folders."""
        loaded = await _adapters(calls)
        if not self._shared:
            return loaded
        run, *_ = self._asked.split("/")
        return {name: path for name, path in loaded.items() if _is_version_of(run, name)}

    async def _load_adapter(self, calls: Calls, version: str, folder: Path) -> None:
        body = {"lora_name": version, "lora_path": str(folder)}
        # An earlier process of this run may have loaded it. Not `load_inplace`, which lets
        # vLLM read the files again whenever a step of its engine makes the adapter active.
        await calls.drops("/v1/unload_lora_adapter", {"lora_name": version})
        try:
            await calls.post("/v1/load_lora_adapter", body)
        except PreceptorError as error:
            raise ServiceFailed(
                f"the server at {calls.url} did not load the adapter {version}: "
                f"{error.detail}. It must see {folder}, and be started with "
                "--enable-lora, --max-lora-rank at least `model.lora.rank`, and "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment"
            ) from error

    async def _load_whole(self, calls: Calls, manifest: WeightManifest) -> None:
        folder, config = str(folder_of(manifest)), self._config
        if config is None or await self._held(calls) is None:
            raise UnfitServer(
                f"the server at {calls.url} takes no new weights; start it with "
                "VLLM_SERVER_DEV_MODE=1 in its environment (vLLM 0.32 or newer)"
            )
        reload = self._reload(calls, config, folder)
        try:
            await calls.post("/collective_rpc", reload)
            await calls.post("/reset_prefix_cache")
            await calls.post("/update_weight_version", {"new_version": manifest.version})
        except PreceptorError as error:
            raise ServiceFailed(
                f"the server at {calls.url} did not load {manifest.version}: {error.detail}. It "
                f"must see the folder {folder}"
            ) from error
        if (held := await self._held(calls)) != manifest.version:
            raise ServiceFailed(f"the server at {calls.url} holds {held}, not {manifest.version}")

    def _reload(self, calls: Calls, config: dict[str, Any], folder: str) -> dict[str, Any]:
        """The call that loads a folder.

        Raises:
            UnfitServer: the server has none that loads it completely.
        """
        if config["parallel_config"].get("worker_extension_cls") == EXTENSION:
            return {"method": "take_weights", "args": [folder]}
        device = str(config["device_config"].get("device"))
        if self._student.is_tied and device.startswith("cpu"):
            # It keeps a packed copy of the head, which vLLM's own call leaves as it was.
            raise UnfitServer(
                f"the server at {calls.url} would keep the old output embedding, which is tied to "
                "the input's; install preceptor in its environment and start it with "
                f"--worker-extension-cls {EXTENSION}"
            )
        return {"method": "reload_weights", "kwargs": {"weights_path": folder}}

    async def check(self, calls: Calls, params: SamplingParams, version: str) -> None:
        """Checks the weights; log-probs are of what is drawn, however that is."""
        del params
        await self._check_weights(calls, version)

    async def draw(self, calls: Calls, draw: Draw) -> list[Generated]:
        """One request for all responses to a prompt."""
        drawn = await self._complete(calls, draw.ids, _sampling(draw, self._student))
        await self._check_weights(calls, draw.version)
        return drawn

    async def sleep(self, calls: Calls) -> None:
        """Weights go to main memory, keys and values away; no request is under way."""
        config = {} if self._config is None else self._config
        on_gpu = not str(config.get("device_config", {}).get("device")).startswith("cpu")
        if on_gpu and not config.get("model_config", {}).get("enable_sleep_mode"):
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
        body = {
            "model": self._asked,
            "prompt": list(ids),
            "logprobs": 0,
            "return_token_ids": True,
            **sampling,
        }
        reply = await calls.post(_PATH, body)
        try:
            if reply["model"] != self._asked:
                raise ServiceFailed(f"{calls.url} answered as {reply['model']}, not {self._asked}")
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

    async def _held(self, calls: Calls) -> str | None:
        """The name of the server's weights; None where it does not say."""
        info = None if self._config is None else await calls.finds("/weight_info")
        return None if info is None else info["weight_version"]

    async def _check_weights(self, calls: Calls, version: str) -> None:
        held, adapters = await self._held(calls), await self._own_adapters(calls)
        if held != self._weights:
            what = f"the weights {held} in place of {self._weights}"
            why = "a run that trains all weights has such a server to itself"
        elif adapters != self._adapters:
            what = f"the adapters {adapters} in place of {self._adapters}"
            why = "one run has such a server to itself"
            if self._shared and adapters:
                why = "runs that share it need a `run.name` of their own each"
            elif self._shared:
                why = "it was started again, or a run without `rollout.sampler.shared` has begun"
        else:
            return
        raise ServiceFailed(
            f"the server at {calls.url} holds {what}, so that it does not draw from {version}; "
            f"{why}"
        )


def _adapter_of(manifest: WeightManifest, *, own: bool) -> Path | None:
    """The folder of a version's adapter; None where it is drawn without one."""
    folder = folder_of(manifest)
    if manifest.base is not None:
        return folder
    first = folder / FIRST_ADAPTER
    return first if own and first.is_dir() else None


def _is_version_of(run: str, name: str) -> bool:
    # RUN/LINEAGE/STEP; others may have loaded adapters of any name.
    parts = name.split("/")
    return len(parts) == 3 and parts[0] == run


async def _cards(calls: Calls) -> list[dict[str, Any]]:
    """What the server lists.

    Raises:
        UnfitServer: it is no server of vLLM's.
    """
    listed = await calls.finds("/v1/models")
    if not listed or not listed.get("data"):
        raise UnfitServer(f"there is no vLLM server at {calls.url}: /v1/models lists no models")
    return listed["data"]


async def _adapters(calls: Calls) -> dict[str, str]:
    """The loaded adapters, with their folders."""
    cards = await _cards(calls)
    return {card["id"]: card["root"] for card in cards if card.get("parent") is not None}


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
