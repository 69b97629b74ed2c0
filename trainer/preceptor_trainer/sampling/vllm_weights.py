"""Which weights a server of vLLM's draws from: loading a version, and asking what is loaded.

Whole versions: vLLM reloads in place by `/collective_rpc`, and `/weight_info` says which one it
holds; these routes exist in its development mode. It reads the version's files, or `PolicyWorker`
gets the weights from the trainer: it fetches what is held (`held_weights.py`), or receives what is
broadcast (`weight_group.py`). Adapters: `/v1/load_lora_adapter`, under the name of the version,
which each request then asks for. Several runs may share a server, each with adapters of its own.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from preceptor_clients.contract.errors import PreceptorError, ServiceFailed
from preceptor_clients.contract.schemas import WeightManifest
from preceptor_clients.sdk.adapters import FIRST_ADAPTER
from preceptor_clients.vllm_expert.worker import PolicyWorker
from preceptor_trainer.sampling.dialect import (
    Calls,
    UnfitServer,
    WeightPath,
    check_untouched,
    folder_of,
    manifest_of,
)
from preceptor_trainer.sampling.held_weights import held, own_address
from preceptor_trainer.sampling.sampler import Published
from preceptor_trainer.sampling.weight_group import WeightGroup, outline_of

_RESTART: Final = "Unless it was just started, it may hold parts of two versions: start it again."
_DROP_S: Final = 5.0
"""Longest wait for a file to be removed; a run that is to end has seconds for all that it does."""
EXTENSION: Final = f"{PolicyWorker.__module__}.{PolicyWorker.__qualname__}"


class VLLMWeights:
    """The weights of one server."""

    def __init__(
        self,
        *,
        model: str,
        config: dict[str, Any] | None,
        is_tied: bool,
        shared: bool,
        path: WeightPath,
    ) -> None:
        """Asks nothing yet.

        Args:
            model: The server's name for its own model.
            config: vLLM's configuration; None where it does not run in its development mode.
            is_tied: Whether the output embedding is the input's.
            shared: Whether adapters of other runs are left alone.
            path: How the server gets weights.
        """
        self._model = model
        self._config = config
        self._is_tied = is_tied
        self._shared = shared
        self._path: WeightPath = path
        self._group: WeightGroup | None = None
        """Broadcasts versions, once the server's workers have met it."""
        self.asked = model
        """The model that requests name: the server's own, or an adapter's version."""
        self._weights: str | None = None
        """What `/weight_info` has to say."""
        self._has_loaded = False
        """Whether this process has loaded an adapter."""
        self._adapters: dict[str, str] = {}
        """This run's adapters that may be loaded, with their folders: the version's, if any."""

    async def takes_adapters(self, calls: Calls) -> bool:
        """Whether it loads adapters while it runs; it reads their files."""
        if self._path != "files":
            return False
        if self._config is not None and self._config.get("lora_config") is None:
            return False
        try:
            await calls.post("/v1/load_lora_adapter", {})
        except PreceptorError as error:
            return error.status != 404
        return True

    async def load(self, calls: Calls, published: Published, *, own: bool) -> None:
        """Loads an adapter under its name, and a whole version in the place of the last one."""
        adapter = None
        if self._path == "files":
            adapter = await self._load_files(calls, published, manifest_of(published), own=own)
        else:
            await self._load_whole(calls, published)
        await self._ask_for(calls, published.version, adapter)
        self._weights = await self._held(calls)

    async def _load_files(
        self, calls: Calls, published: Published, manifest: WeightManifest, *, own: bool
    ) -> Path | None:
        """Loads a whole version; for another one the folder of the adapter to be loaded."""
        if manifest.base is None and not own:
            await self._load_whole(calls, published)
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
        return adapter

    async def _ask_for(self, calls: Calls, version: str, adapter: Path | None) -> None:
        """Names an adapter in requests, or the server's own model, and unloads all others."""
        self.asked, self._adapters = self._model, {}
        if adapter is not None:
            if not self._has_loaded and self._config is not None:
                # Its keys are name and folder, where an earlier run may have had other weights.
                await calls.post("/reset_prefix_cache")
            self._has_loaded = True
            await self._load_adapter(calls, version, adapter)
            self.asked, self._adapters = version, {version: str(adapter)}
        for name in (await self._own_adapters(calls)).keys() - self._adapters.keys():
            await calls.drops("/v1/unload_lora_adapter", {"lora_name": name})

    async def _own_adapters(self, calls: Calls) -> dict[str, str]:
        """The loaded adapters that other runs have no part in, with their folders."""
        loaded = await _adapters(calls)
        if not self._shared:
            return loaded
        run, *_ = self.asked.split("/")
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

    async def _load_whole(self, calls: Calls, published: Published) -> None:
        config, version = self._config, published.version
        if config is None or await self._held(calls) is None:
            raise UnfitServer(
                f"the server at {calls.url} takes no new weights; start it with "
                "VLLM_SERVER_DEV_MODE=1 in its environment (vLLM 0.32 or newer)"
            )
        if self._path == "sent":
            await self._send(calls, config, published)
        elif self._path == "broadcast":
            await self._broadcast(calls, config, published)
        else:
            folder = str(folder_of(manifest_of(published)))
            reload = self._reload(calls, config, folder)
            with _failing(calls, version, f"It must see the folder {folder}"):
                await calls.post("/collective_rpc", reload)
        with _failing(calls, version, "Its own output says why"):
            await calls.post("/reset_prefix_cache")
            await calls.post("/update_weight_version", {"new_version": version})
        if (named := await self._held(calls)) != version:
            raise ServiceFailed(f"the server at {calls.url} holds {named}, not {version}")

    async def _send(self, calls: Calls, config: dict[str, Any], published: Published) -> None:
        """Has all its machines fetch the weights, and then all its workers load them.

        Raises:
            UnfitServer: its workers cannot fetch weights.
            ServiceFailed: they could not, or this machine has no way to it.
        """
        _check_extension(calls, config)
        name = secrets.token_hex(8)
        try:
            with _reaching(calls):
                host = await asyncio.to_thread(own_address, calls.url)
                with held(published.tensors, host) as url:
                    hint = (
                        f"It must reach {urlsplit(url).netloc}, and have this release of "
                        "preceptor in its environment; its own output may say more"
                    )
                    with _failing(calls, published.version, hint):
                        await _on_workers(calls, "fetch_weights", url, name)
            with _failing(calls, published.version, "Its own output says why"):
                await _on_workers(calls, "take_fetched", name)
        finally:
            # What failed before says more, and the next fetch drops the file too.
            with suppress(PreceptorError, TimeoutError):
                async with asyncio.timeout(_DROP_S):
                    await _on_workers(calls, "drop_fetched", name)

    async def _broadcast(self, calls: Calls, config: dict[str, Any], published: Published) -> None:
        """Broadcasts the weights to all its workers, which load them meanwhile.

        Raises:
            UnfitServer: its workers cannot receive weights.
            ServiceFailed: they could not, or this machine has no way to it.
        """
        _check_extension(calls, config)
        # Left out until it has worked: after a failure the ends are not at the same tensor.
        group, self._group = self._group, None
        if group is None:
            group = await _met(calls, config, published.version)
        tensors = published.tensors
        try:
            with _failing(calls, published.version, f"{_RESTART} Its own output says why"):
                telling = _on_workers(calls, "take_broadcast", outline_of(tensors))
                await group.together(telling, partial(group.send, tensors))
        except RuntimeError as error:  # gloo's own, with places in its source
            raise ServiceFailed(
                f"the server at {calls.url} did not load {published.version}: a connection to its "
                f"workers broke. {_RESTART}"
            ) from error
        self._group = group

    def _reload(self, calls: Calls, config: dict[str, Any], folder: str) -> dict[str, Any]:
        """The call that loads a folder.

        Raises:
            UnfitServer: the server has none that loads it completely.
        """
        if _has_extension(config):
            return {"method": "take_weights", "args": [folder]}
        device = str(config["device_config"].get("device"))
        if self._is_tied and device.startswith("cpu"):
            # It keeps a packed copy of the head, which vLLM's own call leaves as it was.
            raise UnfitServer(
                f"the server at {calls.url} would keep the old output embedding, which is tied to "
                "the input's; install preceptor in its environment and start it with "
                f"--worker-extension-cls {EXTENSION}"
            )
        return {"method": "reload_weights", "kwargs": {"weights_path": folder}}

    async def check(self, calls: Calls, version: str) -> None:
        """Checks that the server draws from a version, as far as it says so.

        Raises:
            ServiceFailed: it holds other weights or adapters.
        """
        named, adapters = await self._held(calls), await self._own_adapters(calls)
        if named != self._weights:
            what = f"the weights {named} in place of {self._weights}"
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

    async def _held(self, calls: Calls) -> str | None:
        """The name of the server's weights; None where it does not say."""
        info = None if self._config is None else await calls.finds("/weight_info")
        return None if info is None else info["weight_version"]


async def cards_of(calls: Calls) -> list[dict[str, Any]]:
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
    cards = await cards_of(calls)
    return {card["id"]: card["root"] for card in cards if card.get("parent") is not None}


@contextmanager
def _failing(calls: Calls, version: str, hint: str) -> Generator[None]:
    """Says of a failing call which version was not loaded, and what to look at."""
    try:
        yield
    except PreceptorError as error:
        raise ServiceFailed(
            f"the server at {calls.url} did not load {version}: {error.detail}. {hint}"
        ) from error


async def _met(calls: Calls, config: dict[str, Any], version: str) -> WeightGroup:
    """The group of this process and all workers of a server.

    Raises:
        ServiceFailed: this machine has no way to the server, or a worker does not come to it.
    """
    with _reaching(calls):
        host = await asyncio.to_thread(own_address, calls.url)
        size = 1 + _num_workers(config["parallel_config"])
        group = WeightGroup(host, size=size)
    hint = f"Its workers must reach {host} on any port, and have this release of preceptor"
    try:
        with _failing(calls, version, hint):
            telling = _on_workers(calls, "join_weight_group", host, group.port, size)
            await group.together(telling, group.meet)
    except (OSError, RuntimeError) as error:
        raise ServiceFailed(
            f"the workers of the server at {calls.url} did not meet the trainer: {error}. {hint}"
        ) from error
    return group


@contextmanager
def _reaching(calls: Calls) -> Generator[None]:
    """Says of an error of the network that it is of the way to the server."""
    try:
        yield
    except OSError as error:
        raise ServiceFailed(f"there is no way to {calls.url}: {error}") from error


def _num_workers(parallel: dict[str, Any]) -> int:
    kinds = ("tensor", "pipeline", "prefill_context", "data")
    return math.prod(int(parallel.get(f"{kind}_parallel_size") or 1) for kind in kinds)


async def _on_workers(calls: Calls, method: str, *arguments: Any) -> None:
    """A call of `PolicyWorker` that all workers have done when this returns."""
    await calls.post("/collective_rpc", {"method": method, "args": list(arguments)})


def _check_extension(calls: Calls, config: dict[str, Any]) -> None:
    if not _has_extension(config):
        raise UnfitServer(
            f"rollout.sampler.weights: the server at {calls.url} has no worker that takes weights "
            "from a trainer; install preceptor in its environment and start it with "
            f"--worker-extension-cls {EXTENSION}"
        )


def _has_extension(config: dict[str, Any]) -> bool:
    return config["parallel_config"].get("worker_extension_cls") == EXTENSION


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
