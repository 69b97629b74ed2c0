"""The dialect of a server that `python -m sglang.launch_server` started: its native API.

    python -m sglang.launch_server --model-path MODEL

Tokens: `/generate` with `input_ids` and `return_logprob`; each reply names the weights that it was
drawn from. Whole versions: `/update_weights_from_disk`. Adapters: `/load_lora_adapter`, where the
server was started with `--enable-lora`. SGLang's log-probs are of the distribution before top-k and
top-p cut it, so runs that cut are refused. Written from SGLang's documentation and source. Left
out: seeds, which SGLang follows only in its deterministic mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np

from preceptor_clients.contract.errors import PreceptorError, ServiceFailed
from preceptor_clients.contract.generation import Generated
from preceptor_clients.contract.schemas import WeightManifest
from preceptor_trainer.sampling.dialect import (
    Calls,
    Draw,
    Student,
    UnfitServer,
    check_tokenizer,
    check_untouched,
    folder_of,
    malformed,
    manifest_of,
)
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.sampling.sampler import Published

_PATH: Final = "/generate"
_HOT: Final = 1e6
"""A temperature at which every token is as likely as any other."""
_HOT_TOKENS: Final = 8
_EQUAL: Final = 0.01


class SGLangServer:
    """A server of SGLang's; see `Dialect`."""

    def __init__(self, student: Student) -> None:
        self._student = student
        self._adapter: str | None = None
        self._is_asleep = False
        self._weights: str | None = None
        """What replies have to say of their weights."""
        self._is_tempered: bool | None = None
        """Whether log-probs are of the logits divided by the temperature; None where unknown."""

    async def start(self, calls: Calls) -> None:
        """Checks that the server is there and has the student's tokenizer."""
        if await self._held(calls) is None:
            raise UnfitServer(f"there is no SGLang server at {calls.url}: it names no weights")
        await check_tokenizer(calls, self._student)

    async def takes_adapters(self, calls: Calls) -> bool:
        """Whether it was started with `--enable-lora`."""
        info = await calls.finds("/server_info") or await calls.finds("/get_server_info")
        return bool(info and info.get("enable_lora"))

    async def load(self, calls: Calls, published: Published, *, own: bool) -> None:
        """Loads an adapter under its name, and a whole version in the place of the last one."""
        manifest = manifest_of(published)
        if manifest.base is not None or own:
            check_untouched(calls, await self._held(calls))
            if not own:
                await self._load_adapter(calls, manifest)
        else:
            body = {
                "model_path": str(folder_of(manifest)),
                "weight_version": manifest.version,
                "flush_cache": True,
            }
            await _do(calls, "/update_weights_from_disk", body, manifest)
            if (held := await self._held(calls)) != manifest.version:
                raise ServiceFailed(f"{calls.url} holds {held}, not {manifest.version}")
            self._adapter = None
        self._weights = await self._held(calls)

    async def _load_adapter(self, calls: Calls, manifest: WeightManifest) -> None:
        last, self._adapter = self._adapter, manifest.version
        # An earlier process of this run may have loaded it, and a name is loaded once.
        for name in dict.fromkeys([manifest.version, *([] if last is None else [last])]):
            await calls.drops("/unload_lora_adapter", {"lora_name": name})
        body = {"lora_name": manifest.version, "lora_path": str(folder_of(manifest))}
        await _do(calls, "/load_lora_adapter", body, manifest)

    async def check(self, calls: Calls, params: SamplingParams, version: str) -> None:
        """Refuses what SGLang gives no log-probs for."""
        if params.top_p < 1 or params.top_k > 0:
            raise UnfitServer(
                "rollout.top_p, rollout.top_k: SGLang's log-probs are of the distribution before "
                "the cut, and not of what is drawn; leave both out"
            )
        if params.temperature != 1:
            if self._is_tempered is None:
                self._is_tempered = await self._gives_tempered(calls)
            if not self._is_tempered:
                raise UnfitServer(
                    f"rollout.temperature: the server at {calls.url} gives log-probs without the "
                    "temperature; start it without SGLANG_RETURN_ORIGINAL_LOGPROB"
                )
        if (held := await self._held(calls)) != self._weights:
            raise self._other_weights(calls, held, version)

    async def draw(self, calls: Calls, draw: Draw) -> list[Generated]:
        """One request for all responses to a prompt, which its cache reads once."""
        bias = self._student.padding_bias()
        sampling = {
            "max_new_tokens": draw.params.max_new_tokens,
            "temperature": draw.params.temperature,
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
            "stop_token_ids": sorted(self._student.end_ids),
            **({"logit_bias": bias} if bias else {}),
        }
        items = await self._generate(calls, draw.ids, draw.count, sampling)
        for item in items:
            held = item.get("meta_info", {}).get("weight_version")
            if held != self._weights:
                raise self._other_weights(calls, held, draw.version)
        return [_generated(calls, item) for item in items]

    async def sleep(self, calls: Calls) -> None:
        """Its keys and values go. Weights stay: SGLang does not keep them for waking."""
        await self._occupy(calls, "/release_memory_occupation")

    async def wake(self, calls: Calls) -> None:
        """It takes memory for keys and values again."""
        if self._is_asleep:
            await self._occupy(calls, "/resume_memory_occupation")

    async def _occupy(self, calls: Calls, path: str) -> None:
        try:
            await calls.post(path, {"tags": ["kv_cache"]})
        except PreceptorError as error:
            raise UnfitServer(
                f"rollout.sampler.sleeps: the server at {calls.url} refused {path}: "
                f"{error.detail}; start it with --enable-memory-saver"
            ) from error
        self._is_asleep = path.startswith("/release")

    async def _generate(
        self, calls: Calls, ids: Sequence[int], count: int, sampling: dict[str, Any]
    ) -> list[dict[str, Any]]:
        body = {
            "input_ids": [list(ids)] * count,
            "sampling_params": sampling,
            "return_logprob": True,
            **({} if self._adapter is None else {"lora_path": self._adapter}),
        }
        reply = await calls.post(_PATH, body)
        if not isinstance(reply, list):
            raise malformed(calls, _PATH, "it is no list of responses")
        return cast("list[dict[str, Any]]", reply)

    async def _gives_tempered(self, calls: Calls) -> bool:
        sampling = {"max_new_tokens": _HOT_TOKENS, "temperature": _HOT, "ignore_eos": True}
        [item] = await self._generate(calls, self._student.probe_ids, 1, sampling)
        logprobs_T = _generated(calls, item).logprobs_T
        return bool(logprobs_T.max() - logprobs_T.min() < _EQUAL)

    async def _held(self, calls: Calls) -> str | None:
        info = await calls.finds("/model_info") or await calls.finds("/get_model_info")
        return None if info is None else info.get("weight_version")

    def _other_weights(self, calls: Calls, held: str | None, version: str) -> ServiceFailed:
        return ServiceFailed(
            f"the server at {calls.url} holds the weights {held} in place of {self._weights}, so "
            f"that it does not draw from {version}; a run that trains all weights has such a "
            "server to itself"
        )


async def _do(calls: Calls, path: str, body: dict[str, Any], manifest: WeightManifest) -> None:
    """A call that replies whether it succeeded.

    Raises:
        ServiceFailed: it did not, with the server's words.
    """
    try:
        reply = await calls.post(path, body)
    except PreceptorError as error:
        reply = {"success": False, "message": error.detail}
    if not reply.get("success"):
        why = reply.get("message") or reply.get("error_message") or reply
        raise ServiceFailed(
            f"the server at {calls.url} did not load {manifest.version}: {why}. It must see the "
            f"folder {folder_of(manifest)}"
        )


def _generated(calls: Calls, item: dict[str, Any]) -> Generated:
    try:
        meta = item["meta_info"]
        reason = meta["finish_reason"]["type"]
        pairs = [(logprob, token) for logprob, token, *_ in meta["output_token_logprobs"]]
        if reason not in ("stop", "length"):
            raise ValueError(f"a response ended by {reason!r}")
        if "output_ids" in item and item["output_ids"] != [token for _, token in pairs]:
            raise ValueError("log-probs are of other tokens than output_ids")
    except (TypeError, KeyError, ValueError) as error:
        raise malformed(calls, _PATH, repr(error)) from error
    return Generated(
        response_ids=np.array([token for _, token in pairs], np.int32),
        logprobs_T=np.array([logprob for logprob, _ in pairs], np.float32),
        finish_reason=reason,
    )
