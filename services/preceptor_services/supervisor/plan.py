"""The plan of a deployment: free ports, missing keys, command lines.

All choices are written to `resolved.toml` in the run's folder. Every child reads it, and other
tools may read it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from preceptor_clients.contract.deployment import (
    EMBEDDED,
    DeployedKey,
    DeployedService,
    Deployment,
    Scope,
    parse_deployment,
    to_toml,
)
from preceptor_clients.http.connection import HttpClient
from preceptor_clients.kit.files import OWNER_ONLY, make_key_file, write_whole
from preceptor_services.jobs.embedded_broker import (
    answers_ping,
    broker_command,
    free_port,
    is_free,
)
from preceptor_services.kit.private import make_private_folder
from preceptor_services.supervisor.child import ChildSpec

_NEEDED_SCOPES: Final[tuple[Scope, ...]] = ("trainer", "dispatcher", "admin")
_RESOLVED: Final = "resolved.toml"
_DISPATCHER_GRACE_S: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class ProcessPlan:
    """A deployment that is ready to start."""

    folder: Path
    settings: Deployment
    """The settings, with the chosen ports and addresses."""
    specs: tuple[ChildSpec, ...]
    """The processes in the order of their start; an embedded broker is the first."""


def make_plan(settings: Deployment, folder: Path) -> ProcessPlan:
    """Chooses open ports, makes missing keys and folders, and writes `resolved.toml`.

    Args:
        settings: As read from the file.
        folder: The run's folder, for logs, the broker's file and `resolved.toml`.
    """
    embedded = _wants_embedded_broker(settings)
    resolved = _resolved(settings, folder, embedded)
    for path in _key_files(resolved):
        make_key_file(path)
    g = resolved.gateway
    for path in (folder / "logs", folder / "options", g.blobs, g.service_keys):
        make_private_folder(path)
    path = folder / _RESOLVED
    write_whole(path, to_toml(resolved, defaults=True), mode=OWNER_ONLY)
    specs = [_gateway_spec(resolved, folder, path)]
    specs += [
        _service_spec(name, service, folder)
        for _, name, service in resolved.services()
        if service.use is not None
    ]
    specs.append(_dispatcher_spec(folder, path))
    if embedded:
        specs.insert(0, _broker_spec(resolved, folder))
    return ProcessPlan(folder=folder, settings=resolved, specs=tuple(specs))


def _wants_embedded_broker(settings: Deployment) -> bool:
    gateway = settings.gateway
    return gateway.broker == EMBEDDED or "broker" not in gateway.model_fields_set


def _resolved(settings: Deployment, folder: Path, embedded: bool) -> Deployment:
    gateway = settings.gateway.model_copy(
        update={
            "port": settings.gateway.port or _same_port(folder) or free_port(),
            "broker": f"redis://127.0.0.1:{free_port()}/0" if embedded else settings.gateway.broker,
        }
    )
    ported = settings.with_services({n: _with_port(s) for _, n, s in settings.services()})
    return ported.model_copy(
        update={"gateway": gateway, "keys": _with_needed_scopes(settings.keys, folder)}
    )


def _same_port(folder: Path) -> int | None:
    """The gateway's port of the last start, if it is free, so that bookmarks and links stay
    valid."""
    try:
        g = parse_deployment((folder / _RESOLVED).read_text()).gateway
    except (OSError, ValueError):
        return None
    return g.port if g.port and is_free(g.port) else None


def _with_needed_scopes(keys: dict[str, DeployedKey], folder: Path) -> dict[str, DeployedKey]:
    given = {scope for key in keys.values() for scope in key.scopes}
    added: dict[str, DeployedKey] = {}
    for scope in _NEEDED_SCOPES:
        if scope not in given:
            name = scope if scope not in keys else f"own-{scope}"
            file = folder / "keys" / f"{name}.key"
            added[name] = DeployedKey(file=file, scopes=(scope,))
    return {**keys, **added}


def _with_port(service: DeployedService) -> DeployedService:
    parts = urlsplit(service.url)
    if parts.port != 0:
        return service
    return service.model_copy(update={"url": f"{parts.scheme}://{parts.hostname}:{free_port()}"})


def _key_files(settings: Deployment) -> list[Path]:
    return [
        settings.gateway.hash_key_file,
        *(key.file for key in settings.keys.values()),
        *(s.key_file for _, _, s in settings.services() if s.use is not None),
    ]


def _broker_spec(settings: Deployment, folder: Path) -> ChildSpec:
    port = urlsplit(settings.gateway.broker).port
    assert port is not None, "an embedded broker always has a port"
    data = folder / "broker"
    make_private_folder(data)
    return ChildSpec(
        name="broker",
        command=tuple(broker_command(port, data)),
        log=folder / "logs" / "broker.log",
        url=settings.gateway.broker,
        is_ready=lambda: asyncio.to_thread(answers_ping, port),
        stop_rank=2,
    )


def _gateway_spec(settings: Deployment, folder: Path, resolved: Path) -> ChildSpec:
    url = settings.gateway.url
    module = (sys.executable, "-m", "preceptor_services.gateway")
    return ChildSpec(
        name="gateway",
        command=(*module, "--config", str(resolved)),
        log=folder / "logs" / "gateway.log",
        url=url,
        is_ready=lambda: _http_ready(url),
        stop_rank=1,
    )


def _dispatcher_spec(folder: Path, resolved: Path) -> ChildSpec:
    module = (sys.executable, "-m", "preceptor_services.dispatcher")
    return ChildSpec(
        name="dispatcher",
        command=(*module, "--config", str(resolved), "--grace-s", str(_DISPATCHER_GRACE_S)),
        log=folder / "logs" / "dispatcher.log",
        url=None,
        is_ready=_at_once,
        stop_rank=0,
    )


def _service_spec(name: str, service: DeployedService, folder: Path) -> ChildSpec:
    assert service.use is not None, "the caller checked it"
    parts = urlsplit(service.url)
    options = folder / "options" / f"{name}.json"
    write_whole(options, json.dumps(service.options, indent=2), mode=OWNER_ONLY)
    module = (sys.executable, "-m", "preceptor_clients.cli")
    return ChildSpec(
        name=name,
        command=(
            *(*module, "serve", service.use),
            *("--host", parts.hostname or "127.0.0.1"),
            *("--port", str(parts.port)),
            *("--options-file", str(options)),
            *("--key-file", str(service.key_file)),
        ),
        log=folder / "logs" / f"{name}.log",
        url=service.url,
        is_ready=lambda: _http_ready(service.url),
        stop_rank=1,
    )


async def _http_ready(url: str) -> bool:
    async with HttpClient(url) as client:
        return await client.ready()


async def _at_once() -> bool:
    return True
