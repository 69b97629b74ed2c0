"""Stand-ins for the HTTP servers of vLLM and SGLang: the routes that a run's sampler calls.

Each says the prompt's last token again, and then its end. vLLM's replies were copied from a server
of release 0.32; SGLang's follow its documentation.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from safetensors.torch import load_file
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from torch import Tensor

from preceptor_clients.sdk.offered_weights import WEIGHTS_FILE
from preceptor_clients.vllm_expert.broadcast_weights import joined, received
from preceptor_clients.vllm_expert.fetched_weights import drop, fetch, fetched
from preceptor_trainer.sampling.vllm_weights import EXTENSION

END = 9
PROBE_IDS = (3, 4, 5)
LOGPROB = -0.5


@dataclass(kw_only=True)
class Recorded:
    """What a stand-in was asked, and what it is started with."""

    weights: str = "default"
    lora: bool = False
    probe_ids: tuple[int, ...] = PROBE_IDS
    response: tuple[int, ...] | None = None
    reason: str = "stop"
    sleepless: bool = False
    """Whether it was started so that it does not sleep."""
    is_asleep: bool = False
    wakes: bool = True
    taken_by: str | None = None
    """Weights that somebody else loads while a response is drawn."""
    asked: list[tuple[str, Any]] = field(default_factory=list)
    adapters: dict[str, str] = field(default_factory=dict)
    """Loaded ones, with their folders."""

    def bodies(self, path: str) -> list[Any]:
        """Of the calls of one path."""
        return [body for called, body in self.asked if called == path]

    async def body(self, request: Request) -> Any:
        found = await request.json()
        self.asked.append((request.url.path, found))
        return found

    def drawn(self, ids: list[int]) -> list[int]:
        return [ids[-1], END] if self.response is None else list(self.response)

    async def tokenize(self, request: Request) -> Response:
        await self.body(request)
        return JSONResponse({"tokens": list(self.probe_ids)})


@dataclass(kw_only=True)
class VLLM(Recorded):
    """A server as `vllm serve` starts it."""

    dev: bool = True
    names_weights: bool = True
    """Whether it says which weights it holds, as releases from 0.32 on do."""
    only: float = 0.0
    """What it gives as the log-prob of the only token that may be drawn."""
    extension: str | None = EXTENSION
    device: str = "cpu"
    reaches: bool = True
    """Whether it has a way to the trainer's machine."""
    loads: bool = True
    """Whether its workers can load what they fetched."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """What it was sent and loaded."""
    group: Any = None

    def app(self) -> Starlette:
        routes = [
            Route("/v1/models", self.models),
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
        ]
        if self.dev:
            routes += [
                Route("/server_info", self.server_info),
                Route("/sleep", self.sleep, methods=["POST"]),
                Route("/wake_up", self.wake_up, methods=["POST"]),
                Route("/is_sleeping", self.is_sleeping),
                Route("/collective_rpc", self.workers, methods=["POST"]),
                Route("/reset_prefix_cache", self.done, methods=["POST"]),
                Route("/update_weight_version", self.update_version, methods=["POST"]),
            ]
        if self.dev and self.names_weights:
            routes.append(Route("/weight_info", self.weight_info))
        if self.lora:
            routes += [
                Route("/v1/load_lora_adapter", self.load, methods=["POST"]),
                Route("/v1/unload_lora_adapter", self.unload, methods=["POST"]),
            ]
        return Starlette(routes=routes)

    async def models(self, request: Request) -> Response:
        cards = [{"id": "base", "parent": None}]
        cards += [{"id": n, "root": path, "parent": "base"} for n, path in self.adapters.items()]
        return JSONResponse({"data": cards})

    async def server_info(self, request: Request) -> Response:
        config = {
            "parallel_config": {"worker_extension_cls": self.extension},
            "device_config": {"device": self.device},
            "model_config": {"enable_sleep_mode": not self.sleepless},
            "lora_config": {} if self.lora else None,
        }
        return JSONResponse({"vllm_config": config})

    async def sleep(self, request: Request) -> Response:
        self.is_asleep = request.query_params["level"] == "1"
        return JSONResponse({"status": "sleeping"})

    async def wake_up(self, request: Request) -> Response:
        self.is_asleep = self.is_asleep and not self.wakes
        return JSONResponse({"status": "awake"})

    async def is_sleeping(self, request: Request) -> Response:
        return JSONResponse({"is_sleeping": self.is_asleep})

    async def weight_info(self, request: Request) -> Response:
        return JSONResponse({"weight_version": self.weights})

    async def done(self, request: Request) -> Response:
        await self.body(request)
        return JSONResponse({"results": [None]})

    async def workers(self, request: Request) -> Response:
        """`PolicyWorker` in the only worker."""
        called = await self.body(request)
        method, arguments = called["method"], called.get("args", [])
        if method == "fetch_weights":
            url, name = arguments
            if not self.reaches:
                url = urlsplit(url)._replace(netloc="127.0.0.1:9").geturl()
            try:
                await asyncio.to_thread(fetch, url, name)
            except OSError as error:
                return JSONResponse({"error": {"message": str(error)}}, 500)
        elif method == "take_fetched":
            if not self.loads:
                return JSONResponse({"error": {"message": "size mismatch"}}, 500)
            self.tensors = load_file(fetched(*arguments) / WEIGHTS_FILE)
        elif method == "drop_fetched":
            drop(*arguments)
        elif method == "join_weight_group":
            if not self.reaches:
                return JSONResponse({"error": {"message": "connection refused"}}, 500)
            self.group = await asyncio.to_thread(joined, *arguments)
        elif method == "take_broadcast":
            if self.group is None:
                return JSONResponse({"error": {"message": "has not joined"}}, 500)
            self.tensors = {}
            incoming = received(self.group, *arguments)
            while (found := await asyncio.to_thread(next, incoming, None)) is not None:
                if not self.loads:
                    self.group = None
                    incoming.close()
                    return JSONResponse({"error": {"message": "size mismatch"}}, 500)
                self.tensors[found[0]] = found[1]
        return JSONResponse({"results": [None]})

    async def update_version(self, request: Request) -> Response:
        self.weights = (await self.body(request))["new_version"]
        return JSONResponse({"success": True})

    async def load(self, request: Request) -> Response:
        body = await self.body(request)
        if "lora_name" not in body:
            return JSONResponse({"error": {"message": "Field required"}}, 400)
        if body["lora_name"] in self.adapters:
            return JSONResponse({"error": {"message": "already been loaded"}}, 400)
        self.adapters[body["lora_name"]] = body["lora_path"]
        return PlainTextResponse("Success")

    async def unload(self, request: Request) -> Response:
        name = (await self.body(request))["lora_name"]
        if name not in self.adapters:
            return JSONResponse({"error": {"message": "not found"}}, 404)
        del self.adapters[name]
        return PlainTextResponse("Success")

    async def completions(self, request: Request) -> Response:
        body = await self.body(request)
        assert not self.is_asleep, "a sleeping engine never answers"
        if body["model"] not in ("base", *self.adapters):
            return JSONResponse({"error": {"message": "The model does not exist"}}, 404)
        ids, logprob, reason = self.drawn(body["prompt"]), LOGPROB, self.reason
        if (allowed := body.get("allowed_token_ids")) is not None:
            ids, logprob, reason = allowed, self.only, "length"
        elif self.taken_by is not None:
            self.weights = self.taken_by
        choice = {
            "token_ids": ids,
            "prompt_token_ids": body["prompt"],
            "logprobs": {"token_logprobs": [logprob] * len(ids)},
            "finish_reason": reason,
        }
        choices = [{"index": i, **choice} for i in range(body.get("n", 1))]
        return JSONResponse({"model": body["model"], "choices": choices[::-1]})


@dataclass(kw_only=True)
class SGLang(Recorded):
    """A server as `sglang.launch_server` starts it."""

    tempered: bool = True

    def app(self) -> Starlette:
        routes = [
            Route("/model_info", self.model_info),
            Route("/server_info", self.server_info),
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/generate", self.generate, methods=["POST"]),
            Route("/release_memory_occupation", self.release, methods=["POST"]),
            Route("/resume_memory_occupation", self.resume, methods=["POST"]),
            Route("/update_weights_from_disk", self.update, methods=["POST"]),
            Route("/load_lora_adapter", self.load, methods=["POST"]),
            Route("/unload_lora_adapter", self.unload, methods=["POST"]),
        ]
        return Starlette(routes=routes)

    async def model_info(self, request: Request) -> Response:
        return JSONResponse({"model_path": "m", "weight_version": self.weights})

    async def server_info(self, request: Request) -> Response:
        return JSONResponse({"enable_lora": self.lora})

    async def release(self, request: Request) -> Response:
        assert (await self.body(request))["tags"] == ["kv_cache"]
        if self.sleepless:
            return JSONResponse({"error": {"message": "no memory saver"}}, 400)
        self.is_asleep = True
        return JSONResponse(None)

    async def resume(self, request: Request) -> Response:
        assert self.is_asleep, "ends where nothing was released"
        self.is_asleep = False
        return JSONResponse(None)

    async def update(self, request: Request) -> Response:
        body = await self.body(request)
        if "missing" in body["model_path"]:
            return JSONResponse({"success": False, "message": "no such folder"}, 400)
        self.weights = body["weight_version"]
        return JSONResponse({"success": True, "message": "Succeeded"})

    async def load(self, request: Request) -> Response:
        body = await self.body(request)
        if body["lora_name"] in self.adapters:
            return JSONResponse({"success": False, "error_message": "already loaded"}, 400)
        self.adapters[body["lora_name"]] = body["lora_path"]
        return JSONResponse({"success": True})

    async def unload(self, request: Request) -> Response:
        name = (await self.body(request))["lora_name"]
        if name not in self.adapters:
            return JSONResponse({"success": False, "error_message": "not loaded"}, 400)
        del self.adapters[name]
        return JSONResponse({"success": True})

    async def generate(self, request: Request) -> Response:
        body = await self.body(request)
        assert not self.is_asleep
        sampling = body["sampling_params"]
        if self.taken_by is not None:
            self.weights = self.taken_by
        items = []
        for ids in body["input_ids"]:
            drawn, reason = self.drawn(ids), self.reason
            logprobs = [LOGPROB] * len(drawn)
            if sampling["temperature"] > 100:
                drawn, reason = [1] * sampling["max_new_tokens"], "length"
                logprobs = [-2.3 - (0 if self.tempered else i) for i in range(len(drawn))]
            items.append(
                {
                    "text": "",
                    "output_ids": drawn,
                    "meta_info": {
                        "finish_reason": {"type": reason},
                        "weight_version": self.weights,
                        "output_token_logprobs": [
                            [logprob, token, None]
                            for logprob, token in zip(logprobs, drawn, strict=True)
                        ],
                    },
                }
            )
        return JSONResponse(items)
