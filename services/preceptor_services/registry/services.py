"""Experts and sources by name, and what each last said of itself.

One task per service asks it for `/v1/info`: often until it answers, then now and then, because a
new version means new answer keys. A service that is down keeps what it said: questions to it are
taken and wait. An expert whose answers are found wrong (`inspection.py`) is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol

from preceptor_clients.conformance.subject import Asked
from preceptor_clients.contract.deployment import Deployment
from preceptor_clients.contract.errors import (
    Conflict,
    Invalid,
    NotFound,
    PreceptorError,
    ServiceFailed,
    ServiceUnavailable,
)
from preceptor_clients.contract.known import KnownAnswers
from preceptor_clients.contract.schemas import ServiceInfo, ServiceRole, ServiceStatus
from preceptor_clients.http.addresses import AddressPolicy, AddressRefused
from preceptor_clients.http.connection import check_url
from preceptor_clients.http.registration import NewService
from preceptor_services.jobs.messages import ServiceAddress
from preceptor_services.jobs.roles import role_named
from preceptor_services.kit.addresses import address_policy
from preceptor_services.kit.clock import Clock
from preceptor_services.kit.settings import read_secret
from preceptor_services.registry.inspection import ASKED_AGAIN_S, Inspector, SelfTestFailed
from preceptor_services.store import services
from preceptor_services.store.database import Database
from preceptor_services.store.questions import quarantine
from preceptor_services.store.services import ServiceRow

_log = logging.getLogger("preceptor.gateway")
_STARTING_S: Final = 0.2
_READY_S: Final = 5.0
_DOWN_S: Final = 1.0
_CALL_S: Final = 5.0

_UNDECLARED_LATE_S: Final = 86_400.0
"""For a promise that was made before the service said that it makes none."""

State = Literal["ready", "unreachable", "refused"]


class InfoClient(Asked, Protocol):
    """As much of a service's client as the registry needs: it can also be put to the checks."""

    async def info(self, timeout_s: float = ...) -> ServiceInfo: ...

    async def aclose(self) -> None: ...


Connect = Callable[[str, str, AddressPolicy], InfoClient]
"""Address, key and where it may be to client."""


@dataclass(kw_only=True)
class ServiceEntry:
    """One service as the gateway knows it."""

    name: str
    role: ServiceRole
    url: str
    key_file: Path
    cost: float
    priority: int
    state: State = "unreachable"
    detail: str | None = "it has not answered yet"
    info: ServiceInfo | None = None
    self_test: bool = True
    added_at_runtime: bool = False
    known: KnownAnswers | Path | None = None
    """The canary's answers, or a file of them."""
    broken: bool = False
    """It answers, but its answers were found wrong."""
    quarantined: bool = False
    """Answers since its last good inspection are written off."""
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    def known_info(self) -> ServiceInfo:
        """What it last said of itself.

        Raises:
            ServiceUnavailable: it has never answered, or its answers were found wrong.
        """
        if self.info is None or self.broken:
            # A finding stands for a while: who cannot wait as long hears the reason at once.
            retry_after_s = ASKED_AGAIN_S if self.broken else 1.0
            raise ServiceUnavailable(
                f"{self.name} is not ready: {self.detail}",
                field=self.role,
                retry_after_s=retry_after_s,
            )
        return self.info

    def status(self) -> ServiceStatus:
        """For callers; no address."""
        return ServiceStatus(
            name=self.name, role=self.role, state=self.state, detail=self.detail, info=self.info
        )


class Registry:
    """All services of a deployment."""

    def __init__(
        self, database: Database, connect: Connect, clock: Clock, settings: Deployment
    ) -> None:
        self._database = database
        self._connect = connect
        self._clock = clock
        self._key_folder = settings.gateway.service_keys
        self._policies = {
            runtime: address_policy(settings, added_at_runtime=runtime) for runtime in (False, True)
        }
        self._inspector = Inspector(canary_every_s=settings.gateway.canary_every_s)
        self._entries: dict[str, ServiceEntry] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        for role, name, service in settings.services():
            self._entries[name] = ServiceEntry(
                name=name,
                role=role,
                url=service.url,
                key_file=service.key_file,
                cost=service.cost,
                priority=service.priority,
                self_test=service.self_test,
                known=service.known,
            )

    async def start(self) -> None:
        """Writes the settings' services down, recalls the others, and begins to ask."""
        async with self._database.write() as conn:
            for entry in self._entries.values():
                await services.put_service(conn, _row(entry))
            for row in await services.runtime_services(conn):
                self._entries.setdefault(row.name, _entry(row))
            for entry in self._entries.values():
                known = await services.last_info(conn, entry.name)
                entry.info = None if known is None else ServiceInfo.model_validate(known)
        for entry in self._entries.values():
            self._watch(entry)

    async def stop(self) -> None:
        """Stops asking."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def get(self, name: str, role: ServiceRole, *, field: str) -> ServiceEntry:
        """The service of that name.

        Raises:
            NotFound: there is none in this role; `field` is what named it.
        """
        entry = self._entries.get(name)
        if entry is None or entry.role != role:
            raise NotFound(f"no {role} is named {name!r}", field=field)
        return entry

    def cost(self, name: str, num_tokens: int) -> float:
        """Price of an answer about so many tokens, where the answer names none.

        The deployment's price of an answer; without one, the service's own of a token.
        """
        entry = self._entries.get(name)
        if entry is None:
            return 0.0
        if entry.cost or entry.info is None:
            return entry.cost
        return num_tokens * (entry.info.capabilities.cost_per_token or 0.0)

    def addresses_of(self, entry: ServiceEntry) -> AddressPolicy:
        """Where the service may be."""
        return self._policies[entry.added_at_runtime]

    def late_s(self, name: str) -> float:
        """How long a promise of a service may take."""
        entry = self._entries.get(name)
        declared = None if entry is None or entry.info is None else entry.info.capabilities.late_s
        return _UNDECLARED_LATE_S if declared is None else declared

    def names_of(self, name: str) -> frozenset[str]:
        """What a service may call itself: as the deployment does, or as it said."""
        entry = self._entries.get(name)
        said = () if entry is None or entry.info is None else (entry.info.name,)
        return frozenset((name, *said))

    def names(self) -> tuple[str, ...]:
        """Of every service."""
        return tuple(self._entries)

    def statuses(self) -> tuple[ServiceStatus, ...]:
        """Every service."""
        return tuple(self._entries[name].status() for name in sorted(self._entries))

    def addresses(self) -> tuple[ServiceAddress, ...]:
        """Where every service listens."""
        return tuple(
            ServiceAddress(
                name=entry.name,
                url=entry.url,
                key_file=str(entry.key_file),
                added_at_runtime=entry.added_at_runtime,
            )
            for entry in self._entries.values()
        )

    async def versions(self, name: str) -> list[tuple[ServiceInfo, float]]:
        """Every version of a service, the last one first, and when it was last heard anew.

        Raises:
            NotFound: there is no such service.
        """
        if name not in self._entries:
            raise NotFound(f"no service is named {name!r}", field="name")
        async with self._database.read() as conn:
            rows = await services.versions(conn, name)
        return [(ServiceInfo.model_validate(row.info), row.seen_at) for row in rows]

    async def add_new(self, new: NewService) -> ServiceStatus:
        """Adds what a caller of the gateway describes.

        Raises:
            Invalid: its key file does not lie in the folder of such keys, or its address is none
                that may be connected to.
            Conflict: the name is another's.
        """
        key_file = self._key_folder / new.key_file
        if not key_file.is_file():
            raise Invalid(
                f"put a file with the service's key at {key_file} and try again", field="key_file"
            )
        await self._check_address(new.url)
        entry = ServiceEntry(
            name=new.name,
            role=new.role,
            url=new.url,
            key_file=key_file,
            cost=new.cost,
            priority=new.priority,
            added_at_runtime=True,
            self_test=new.self_test,
            known=new.known,
        )
        await self.add(entry, replaces=new.replaces)
        return entry.status()

    async def _check_address(self, url: str) -> None:
        policy = self._policies[True]
        try:
            await policy.check_resolved(*check_url(url, policy))
        except AddressRefused as error:
            raise Invalid(str(error), field="url") from None
        except ValueError as error:
            raise Invalid(str(error).removeprefix("url: "), field="url") from None

    async def remove(self, name: str) -> None:
        """Takes a service out that was added at run time; what it has answered stays.

        Raises:
            NotFound: there is none of that name.
            Conflict: it is one of the settings.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise NotFound(f"no service is named {name!r}", field="name")
        if not entry.added_at_runtime:
            raise Conflict(
                f"{name!r} is a {entry.role} of the settings; take it out of the file", field="name"
            )
        async with self._database.write() as conn:
            await services.forget_service(conn, name)
        self._forget(name)
        del self._entries[name]

    def _forget(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
        self._inspector.forget(name)

    async def add(self, entry: ServiceEntry, *, replaces: bool = False) -> None:
        """Adds a service for good, or moves one that was added at run time.

        Raises:
            Conflict: the name is another's.
        """
        there = self._entries.get(entry.name)
        if there is not None:
            if not replaces:
                raise Conflict(f"{entry.name!r} is named already", field="name")
            if not there.added_at_runtime or there.role != entry.role:
                raise Conflict(
                    f"{entry.name!r} is a {there.role} of the settings, or of another role",
                    field="name",
                )
        async with self._database.write() as conn:
            await services.put_service(conn, _row(entry))
        self._forget(entry.name)
        self._entries[entry.name] = entry
        self._watch(entry)

    def _watch(self, entry: ServiceEntry) -> None:
        self._tasks[entry.name] = asyncio.create_task(
            self._ask_forever(entry), name=f"registry {entry.name}"
        )

    async def _ask_forever(self, entry: ServiceEntry) -> None:
        while True:
            try:
                async with self._connected(entry) as client:
                    while True:
                        await self._ask_guarded(entry, client)
                        await asyncio.sleep(_pause_s(entry))
            except (OSError, ValueError) as error:
                # Of its key file or its address: either may be mended while we run.
                entry.state, entry.detail = "refused", str(error)
                _log.error("%s cannot be asked: %s", entry.name, error)
            await asyncio.sleep(_READY_S)

    async def _ask_guarded(self, entry: ServiceEntry, client: InfoClient) -> None:
        try:
            await self._ask(entry, client)
        except Exception:
            # The boundary of a background task: whatever a service says, it is asked again.
            entry.state, entry.detail = "refused", "asking it failed; the gateway's log says why"
            _log.exception("asking %s failed", entry.name)

    @contextlib.asynccontextmanager
    async def _connected(self, entry: ServiceEntry) -> AsyncGenerator[InfoClient]:
        if entry.added_at_runtime and entry.key_file.parent != self._key_folder:
            raise ValueError(f"key_file: {entry.key_file} is not in {self._key_folder}")
        key = read_secret(entry.key_file)
        client = self._connect(entry.url, key, self._policies[entry.added_at_runtime])
        try:
            yield client
        finally:
            await client.aclose()

    async def _ask(self, entry: ServiceEntry, client: InfoClient) -> None:
        try:
            info = await client.info(timeout_s=_CALL_S)
            if info.role != entry.role:
                raise ServiceFailed(f"says that it is a {info.role}, not a {entry.role}")
            asked_at = self._clock.now()
            good = await self._inspector.inspect(
                entry.name, client, info, self_test=entry.self_test, known=entry.known
            )
        except PreceptorError as error:
            entry.broken = isinstance(error, SelfTestFailed)
            entry.state = "unreachable" if error.retryable else "refused"
            entry.detail = error.detail
            if entry.broken and not entry.quarantined:
                await self._quarantine(entry, error.detail)
            return
        try:
            if good:
                await self._note_good(entry, asked_at)
            await self._hear(entry, info)
        except ServiceUnavailable as error:
            # Our database's fault: the service is heard the next time.
            _log.warning("%s is not written down: %s", entry.name, error.detail)

    async def _quarantine(self, entry: ServiceEntry, reason: str) -> None:
        """What it has answered since it was last found right is served no longer."""
        problem = SelfTestFailed(f"{entry.name} failed an inspection afterwards: {reason}")
        async with self._database.write() as conn:
            since = await quarantine.good_at(conn, entry.name)
            if since is not None:
                document = problem.problem().model_dump(mode="json", exclude_none=True)
                count = await quarantine.quarantine(
                    conn, entry.name, since, self._clock.now(), document
                )
                _log.error("%d answers of %s are quarantined", count, entry.name)
        entry.quarantined = True

    async def _note_good(self, entry: ServiceEntry, asked_at: float) -> None:
        if entry.quarantined:
            # Calls that were under way when it was found out have come back meanwhile.
            await self._quarantine(entry, "it was asked before it was mended")
        async with self._database.write() as conn:
            await quarantine.note_good(conn, entry.name, asked_at)
        entry.quarantined = False

    async def quarantined(self, name: str, after: str, limit: int) -> list[tuple[str, str]]:
        """Targets made of answers of a service that may be wrong, with their rollouts.

        Raises:
            NotFound: there is no such service.
        """
        if name not in self._entries:
            raise NotFound(f"no service is named {name!r}", field="name")
        async with self._database.read() as conn:
            return await quarantine.targets(conn, name, after, limit)

    async def _hear(self, entry: ServiceEntry, info: ServiceInfo) -> None:
        if entry.info != info:
            async with self._database.write() as conn:
                await services.add_version(
                    conn,
                    {
                        "service": entry.name,
                        "version": info.version,
                        "info": info.model_dump(mode="json"),
                        "seen_at": self._clock.now(),
                    },
                )
            _log.info("%s is there, version %s", entry.name, info.version)
        entry.info, entry.state, entry.detail = info, "ready", None
        entry.broken = False
        entry.heard.set()


def _pause_s(entry: ServiceEntry) -> float:
    if entry.state == "ready":
        return _READY_S
    return _DOWN_S if entry.heard.is_set() else _STARTING_S


def _row(entry: ServiceEntry) -> dict[str, object]:
    return {
        "name": entry.name,
        "role": entry.role,
        "url": entry.url,
        "key_file": str(entry.key_file),
        "cost": entry.cost,
        "priority": entry.priority,
        "added_at_runtime": entry.added_at_runtime,
        "self_test": entry.self_test,
        # A file is read anew each time; what came by a call is nowhere else.
        "known": entry.known.model_dump(mode="json")
        if isinstance(entry.known, KnownAnswers)
        else None,
    }


def _entry(row: ServiceRow) -> ServiceEntry:
    return ServiceEntry(
        name=row.name,
        role=role_named(row.role),
        url=row.url,
        key_file=Path(row.key_file),
        cost=row.cost,
        priority=row.priority,
        added_at_runtime=True,
        self_test=row.self_test,
        known=None if row.known is None else KnownAnswers.model_validate(row.known),
    )
