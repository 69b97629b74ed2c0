"""Checks of `preceptor doctor` that ask the gateway over HTTP, without a file of the deployment."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Final

from preceptor_clients.contract.errors import Forbidden, PreceptorError, Unauthorised
from preceptor_clients.contract.schemas import ServiceInfo, ServiceStatus
from preceptor_clients.http.gateway import GatewayClient
from preceptor_services.operating.finding import Finding
from preceptor_services.operating.sample import Sample, take_sample

_CALL_S: Final = 5.0
_SKEW_WARN_S: Final = 5.0
_SKEW_FAIL_S: Final = 60.0
_OLD_S: Final = 120.0
_DISPATCHER_S: Final = 20.0
"""Dispatchers call every 5 s."""
_NOBODY: Final = "not-a-key-of-this-deployment-0000"


async def check_gateway(gateway: GatewayClient, url: str) -> AsyncIterator[Finding]:
    """Reachability, clock, readiness, version, keys, services, dispatchers and queues."""
    try:
        reply = await gateway.raw("GET", "/livez", timeout_s=_CALL_S)
    except PreceptorError as error:
        yield Finding("fail", "gateway", error.detail, f"start it, or correct the address {url}")
        return
    yield Finding("ok", "gateway", f"answers at {url}")
    yield clock_finding(reply.sent_at, time.time())
    yield await _readiness(gateway)
    yield await _strangers(gateway)
    try:
        info = await gateway.call("GET", "/v1/info", reply=ServiceInfo, timeout_s=_CALL_S)
        yield version_finding(info.version, version("preceptor"))
        sample = await take_sample(gateway)
    except (Unauthorised, Forbidden) as error:
        remedy = "use a key of scope reader: --key-file, or a [keys.NAME] of the settings"
        yield Finding("fail", "key", error.detail, remedy)
        return
    except PreceptorError as error:
        remedy = "read the gateway's log; services and queues are not checked"
        yield Finding("fail", "metrics", error.detail, remedy)
        return
    yield Finding("ok", "key", "reads metrics and runs")
    for finding in (*services_findings(sample), dispatcher_finding(sample)):
        yield finding


def clock_finding(theirs: float | None, ours: float) -> Finding:
    """The gateway's wall clock against this machine's."""
    if theirs is None:
        return Finding("warn", "clock", "the gateway sends no Date header", "check NTP by hand")
    skew_s = abs(ours - theirs)
    if skew_s <= _SKEW_WARN_S:
        return Finding("ok", "clock", f"within {_SKEW_WARN_S:.0f} s of this machine's")
    level = "fail" if skew_s > _SKEW_FAIL_S else "warn"
    remedy = "synchronise both machines by NTP: gateways of several machines share deadlines"
    return Finding(level, "clock", f"{skew_s:.0f} s from this machine's", remedy)


def version_finding(theirs: str, ours: str) -> Finding:
    """The gateway's version against this command's."""
    if theirs == ours:
        return Finding("ok", "version", theirs)
    detail = f"the gateway has {theirs}, this command {ours}"
    return Finding("warn", "version", detail, "install the same version on all machines")


async def _readiness(gateway: GatewayClient) -> Finding:
    try:
        reply = await gateway.raw("GET", "/readyz", timeout_s=_CALL_S)
        told = json.loads(reply.body)
    except (PreceptorError, ValueError) as error:
        return Finding("fail", "readiness", str(error), "read the gateway's log")
    if reply.status != 200:
        remedy = "start what it names, and correct its address or password in the settings"
        return Finding("fail", "readiness", str(told.get("detail")), remedy)
    checked = ", ".join(f"{name} {how}" for name, how in told.items() if name != "state")
    return Finding("ok", "readiness", checked or "ready")


async def _strangers(gateway: GatewayClient) -> Finding:
    headers = {"authorization": f"Bearer {_NOBODY}"}
    try:
        reply = await gateway.raw("GET", "/v1/experts", headers=headers, timeout_s=_CALL_S)
    except PreceptorError as error:
        return Finding("fail", "strangers", error.detail, "read the gateway's log")
    if reply.status == 401:
        return Finding("ok", "strangers", "an unknown key is refused")
    remedy = "a proxy in front of the gateway may add a key of its own: remove it"
    return Finding("fail", "strangers", f"an unknown key is answered with {reply.status}", remedy)


def services_findings(sample: Sample) -> list[Finding]:
    """Each service and its queue."""
    if not sample.services:
        remedy = "add [experts.NAME] to the settings, or use `preceptor expert add`"
        return [Finding("warn", "services", "the deployment has none", remedy)]
    return [_service_finding(sample, status) for status in sample.services]


def _service_finding(sample: Sample, status: ServiceStatus) -> Finding:
    subject = f"{status.role} {status.name}"
    if status.state == "refused":
        remedy = "`preceptor expert check URL` shows what breaks the contract"
        return Finding("fail", subject, f"refused: {status.detail}", remedy)
    if status.state == "unreachable":
        remedy = "start it; check `url` and `key_file` in the settings and the way to it"
        return Finding("fail", subject, f"unreachable: {status.detail}", remedy)
    oldest_s = sample.gauge("preceptor_queue_oldest_seconds", service=status.name) or 0.0
    depth = sample.gauge("preceptor_queue_depth", service=status.name)
    if oldest_s > _OLD_S:
        detail = f"ready, but its oldest job is {oldest_s:.0f} s old"
        remedy = "`preceptor top` shows whether calls are slow, fail, or are not made at all"
        return Finding("warn", subject, detail, remedy)
    told = "" if status.info is None else f", version {status.info.version:.40}"
    if depth is None:
        remedy = "start the broker: without it nothing is asked"
        return Finding("fail", subject, f"ready, but its queue cannot be read{told}", remedy)
    return Finding("ok", subject, f"ready, {depth:.0f} jobs{told}")


def dispatcher_finding(sample: Sample) -> Finding:
    """Whether a dispatcher runs; several gateway processes share their calls."""
    seen_s = sample.gauge("preceptor_dispatcher_seen_seconds")
    remedy = "start `preceptor dispatcher`, or read its log: no question is asked without one"
    if seen_s is None:
        return Finding("fail", "dispatchers", "none has called this gateway", remedy)
    if seen_s > _DISPATCHER_S:
        return Finding("fail", "dispatchers", f"none has called for {seen_s:.0f} s", remedy)
    return Finding("ok", "dispatchers", f"one called {seen_s:.0f} s ago")
