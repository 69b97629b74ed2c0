"""Starts, watches and stops a deployment's processes.

Example:
    async with Supervisor(Path("runs/demo/preceptor.toml")) as supervisor:
        ...                        # supervisor.settings names addresses and keys
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from preceptor_clients.contract.deployment import Deployment
from preceptor_clients.kit.files import write_whole
from preceptor_services.kit.settings import load_settings
from preceptor_services.supervisor.child import Child
from preceptor_services.supervisor.plan import make_plan

_START_TIMEOUT_S: Final = 240.0
"""Shorter than the 300 s for which the trainer waits for the ready file, so that this error, which
names the process, comes first."""
_STOP_TIMEOUT_S: Final = 8.0
_POLL_S: Final = 0.1
_FIRST_RESTART_S: Final = 0.2
_MAX_RESTARTS: Final = 5
_HEALTHY_S: Final = 60.0
"""After this time of running, the earlier restarts of a child are no longer counted."""
_log = logging.getLogger("preceptor.supervisor")


class ChildFailed(Exception):
    """A process did not start, or ended again and again; the message has the end of its log."""


class Supervisor:
    """The processes of one deployment; an async context manager that enters when all are ready."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self.folder = config.resolve().parent
        self._settings: Deployment | None = None
        self.children: list[Child] = []
        self._lock: Any = None
        self._restart_at: dict[str, float] = {}
        self.on_restart: Callable[[], None] = lambda: None

    async def __aenter__(self) -> Self:
        self._lock_folder()
        try:
            plan = make_plan(load_settings(self._config), self.folder)
            self._settings = plan.settings
            self.children = [Child(spec) for spec in plan.specs]
            await self._start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def settings(self) -> Deployment:
        """The settings, with the chosen ports and addresses."""
        assert self._settings is not None, "entered"
        return self._settings

    async def watch(self) -> None:
        """Restarts processes that end unexpectedly, without end.

        Raises:
            ChildFailed: a process ended too often.
        """
        while True:
            for child in self.children:
                self._revive(child)
            await asyncio.sleep(_POLL_S)

    async def stop(self) -> None:
        """Stops all processes in the order of their specs."""
        for rank in sorted({child.spec.stop_rank for child in self.children}):
            await _end([child for child in self.children if child.spec.stop_rank == rank])
        if self._lock is not None:
            self._lock.close()

    def description(self) -> dict[str, Any]:
        """Addresses, key files and process ids, for programs that use the deployment."""
        settings = self.settings
        return {
            "gateway": settings.gateway.url,
            "broker": settings.gateway.broker,
            "settings": str(self.folder / "resolved.toml"),
            "keys": {name: str(key.file) for name, key in settings.keys.items()},
            "services": {name: service.url for _, name, service in settings.services()},
            "pids": {child.spec.name: child.pid for child in self.children},
            "logs": str(self.folder / "logs"),
        }

    async def _start(self) -> None:
        for child in self.children:
            child.start()
            if child.spec.name == "broker":
                await self._until_ready(child)
        waiting = [child.spec.name for child in self.children]
        _log.info("waiting for %s", ", ".join(waiting))

        async def until_ready(child: Child) -> None:
            await self._until_ready(child)
            waiting.remove(child.spec.name)
            if waiting:
                _log.info("waiting for %s", ", ".join(waiting))

        await asyncio.gather(*(until_ready(child) for child in self.children))

    async def _until_ready(self, child: Child) -> None:
        end = time.monotonic() + _START_TIMEOUT_S
        while not await child.spec.is_ready():
            await asyncio.sleep(_POLL_S / 2)
            if not child.runs():
                break
            if time.monotonic() > end:
                raise ChildFailed(f"not ready within {_START_TIMEOUT_S:g} s: {child.ending()}")
        # Another process on the same port could have answered.
        if not child.runs():
            raise ChildFailed(child.ending())

    def _revive(self, child: Child) -> None:
        name = child.spec.name
        if child.runs():
            return
        if name not in self._restart_at:
            if time.monotonic() - child.started_at > _HEALTHY_S:
                child.restarts = 0
            if child.restarts >= _MAX_RESTARTS:
                raise ChildFailed(f"restarted {child.restarts} times: {child.ending()}")
            delay_s = _FIRST_RESTART_S * 2**child.restarts
            _log.warning("%s; starting it again in %.1f s", child.ending(), delay_s)
            self._restart_at[name] = time.monotonic() + delay_s
        elif time.monotonic() >= self._restart_at[name]:
            del self._restart_at[name]
            child.restarts += 1
            child.kill_group()  # descendants that are still running
            child.start()
            self.on_restart()

    def _lock_folder(self) -> None:
        # Two deployments in one folder would share the database and the broker's file.
        self._lock = (self.folder / "up.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise ChildFailed(f"another `preceptor up` runs in {self.folder}") from None


async def _end(children: Sequence[Child]) -> None:
    for child in children:
        child.terminate()
    end = time.monotonic() + _STOP_TIMEOUT_S
    try:
        while any(child.runs() for child in children) and time.monotonic() < end:
            await asyncio.sleep(_POLL_S / 4)
    finally:
        for child in children:
            if child.runs():
                _log.warning("%s did not end in time and is killed", child.spec.name)
            child.kill_group()


def write_description(path: Path, description: dict[str, Any]) -> None:
    """Writes the file atomically, so that a reader never sees a part of it."""
    write_whole(path, json.dumps(description, indent=2) + "\n")
