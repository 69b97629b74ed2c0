"""Checks of `preceptor doctor` that need the deployment's settings: keys, disk, broker, sandbox."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from preceptor_clients.conformance.subject import CheckOptions
from preceptor_clients.conformance.suite import check_expert
from preceptor_clients.contract.deployment import EMBEDDED, DeployedKey, DeployedService, Deployment
from preceptor_clients.contract.errors import PreceptorError, Unauthorised
from preceptor_clients.contract.execution import ExecutionCase, ExecutionTask
from preceptor_clients.contract.fingerprint import content_hash
from preceptor_clients.contract.schemas import (
    FeedbackCall,
    FeedbackItem,
    FeedbackQuery,
    Prompt,
    Services,
)
from preceptor_clients.http.connection import NO_RETRY
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.http.service import ServiceClient
from preceptor_services.jobs.streams import JobStreams
from preceptor_services.kit.settings import broker_url, read_secret
from preceptor_services.operating.finding import Finding

_CALL_S: Final = 20.0
_LITTLE_BYTES: Final = 1 << 30
_LITTLE_SHARE: Final = 0.1
_OLDEST_BROKER: Final = (6, 2)
_WALLED: Final = "namespaces"
_QUICK: Final = ("health", "key", "declared", "door", "index", "normalisation")
"""Checks of the contract that take one short call each."""


async def check_settings(settings: Deployment, url: str) -> AsyncIterator[Finding]:
    """Everything that the settings name."""
    for name, key in settings.keys.items():
        yield await _key(url, name, key)
    yield disk_finding(settings.gateway.blobs)
    yield await _broker(settings)
    for role, name, service in settings.services():
        if role == "expert":
            yield await _expert(name, service)
        else:
            yield await _walls(name, service)


async def _key(url: str, name: str, key: DeployedKey) -> Finding:
    subject = f"key {name}"
    unsafe = file_finding(subject, key.file)
    if unsafe is not None:
        return unsafe
    try:
        async with GatewayClient(url, read_secret(key.file), retry=NO_RETRY) as gateway:
            await gateway.call("GET", "/v1/experts", reply=Services, timeout_s=_CALL_S)
    except Unauthorised:
        remedy = "the gateway reads keys when it starts: restart it, or give the settings it runs"
        return Finding("fail", subject, "the gateway does not know it", remedy)
    except (PreceptorError, OSError, ValueError) as error:
        return Finding("fail", subject, str(error), "`preceptor deploy keys` creates key files")
    return Finding("ok", subject, f"known; may do: {', '.join(key.scopes)}")


def file_finding(subject: str, file: Path) -> Finding | None:
    """What is wrong with a key file; None if nothing is."""
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
    except FileNotFoundError:
        remedy = "`preceptor deploy keys` creates it; or run this where the file is"
        return Finding("warn", subject, f"{file} does not exist here", remedy)
    except PermissionError:
        return Finding("warn", subject, f"{file} may not be read here", "run this as its owner")
    if mode & 0o007:
        remedy = f"chmod 600 {file}, and replace the key if others use this machine"
        return Finding("fail", subject, f"{file} can be read by everybody", remedy)
    return None


def disk_finding(folder: Path) -> Finding:
    """Free space where the blobs are."""
    there = next((p for p in (folder, *folder.parents) if p.exists()), Path("/"))
    usage = shutil.disk_usage(there)
    free = f"{usage.free / (1 << 30):.1f} GiB free at {folder}"
    remedy = "make room: a full disk stops every question"
    if usage.free < _LITTLE_BYTES:
        return Finding("fail", "disk", free, remedy)
    little = usage.free < _LITTLE_SHARE * usage.total
    return Finding("warn" if little else "ok", "disk", free, remedy)


async def _broker(settings: Deployment) -> Finding:
    if settings.gateway.broker == EMBEDDED:
        return Finding("ok", "broker settings", "its own; `readiness` says whether it answers")
    try:
        queue = JobStreams.connect(broker_url(settings.gateway))
        try:
            return broker_finding(await queue.server_settings())
        finally:
            await queue.aclose()
    except (PreceptorError, OSError, ValueError) as error:
        remedy = "run this where the broker can be reached, with its password file"
        return Finding("warn", "broker", f"not checked: {error}", remedy)


def broker_finding(told: Mapping[str, str]) -> Finding:
    """Whether the broker keeps what it takes."""
    version = told["version"]
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_BROKER:
        return Finding("fail", "broker", f"version {version}", "use Redis 6.2 or later, or Valkey")
    policy = told.get("maxmemory-policy", "noeviction")
    if policy != "noeviction":
        remedy = "set maxmemory-policy noeviction"
        return Finding("fail", "broker", f"maxmemory-policy {policy} may drop jobs", remedy)
    if told.get("appendonly", "yes") != "yes":
        remedy = "set appendonly yes; without it every job is put again from SQL after a restart"
        return Finding("warn", "broker", "keeps nothing over a restart", remedy)
    return Finding("ok", "broker", f"version {version}, keeps what it takes")


async def _expert(name: str, service: DeployedService) -> Finding:
    subject = f"contract of {name}"
    try:
        options = CheckOptions(key=read_secret(service.key_file), timeout_s=_CALL_S)
        report = await check_expert(service.url, options, only=_QUICK)
    except (PreceptorError, OSError, ValueError) as error:
        return _not_checked(subject, error)
    failed = [verdict.check for verdict in report.verdicts if verdict.state == "failed"]
    if failed:
        remedy = f"`preceptor expert check {service.url}` gives the details"
        return Finding("fail", subject, f"fails {', '.join(failed)}", remedy)
    return Finding("ok", subject, f"{len(report.verdicts)} quick checks pass")


async def _walls(name: str, service: DeployedService) -> Finding:
    """How a source isolates a program; one that runs none says so by an error."""
    subject = f"sandbox of {name}"
    try:
        async with ServiceClient(
            service.url, read_secret(service.key_file), retry=NO_RETRY
        ) as client:
            reply = await client.feedback(FeedbackCall(queries=(_probe(),)), timeout_s=_CALL_S)
    except (PreceptorError, OSError, ValueError) as error:
        return _not_checked(subject, error)
    answer = reply.results[0].answer
    items = () if answer is None else answer.items
    return walls_finding(subject, items)


def walls_finding(subject: str, items: tuple[FeedbackItem, ...]) -> Finding:
    """The isolation that a source's answer declares."""
    told = next((i.details["isolation"] for i in items if "isolation" in (i.details or {})), None)
    if not isinstance(told, dict):
        return Finding("ok", subject, "it runs no programs")
    level = str(told.get("level"))
    if level == _WALLED:
        return Finding("ok", subject, f"level {level}")
    remedy = "programs share the service's user, files and network: run only programs you trust"
    return Finding("warn", subject, f"level {level}", remedy)


def _probe() -> FeedbackQuery:
    task = ExecutionTask(shown=(ExecutionCase(input=[2, 1], expected=[1, 2]),))
    payload = task.model_dump(mode="json")
    return FeedbackQuery(
        rollout_id="doctor",
        prompt=Prompt(ids=np.array([0], np.int32)),
        response_ids=np.array([0], np.int32),
        response_text="sorted(x)",
        finish_reason="stop",
        payload_sha256=content_hash(json.loads(json.dumps(payload))),
        payload=payload,
    )


def _not_checked(subject: str, error: Exception) -> Finding:
    remedy = "run this where the service can be reached, such as the gateway's machine"
    return Finding("warn", subject, f"not checked: {error}", remedy)
