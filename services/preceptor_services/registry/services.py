"""Experts and sources by name, with the last `/v1/info` of each.

One task per service requests `/v1/info`: often until the service answers, then every few seconds,
because a new version means new answer keys. The registry keeps the last information of a service
that is down, so the gateway accepts questions to it, and they wait. An expert that gives wrong
answers (`inspection.py`) is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from pydantic import ValidationError

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
from preceptor_clients.contract.schemas import (
    ServiceInfo,
    ServiceRole,
    ServiceStatus,
    WeightsOffer,
)
from preceptor_clients.contract.version import check_contract
from preceptor_clients.http.addresses import AddressPolicy, AddressRefused
from preceptor_clients.http.connection import check_url
from preceptor_clients.http.registration import NewService
from preceptor_services.jobs.messages import ServiceAddress
from preceptor_services.jobs.roles import role_named
from preceptor_services.kit.addresses import address_policy
from preceptor_services.kit.clock import Clock
from preceptor_services.kit.settings import read_secret
from preceptor_services.registry.inspection import (
    ASKED_AGAIN_S,
    CanaryAnswers,
    Inspector,
    SelfTestFailed,
)
from preceptor_services.store import services
from preceptor_services.store.database import Connection, Database
from preceptor_services.store.questions import quarantine
from preceptor_services.store.services import ServiceRow

_log = logging.getLogger("preceptor.gateway")
_STARTING_S: Final = 0.2
_READY_S: Final = 5.0
_DOWN_S: Final = 1.0
_CALL_S: Final = 5.0
_FOLLOW_S: Final = 2.0
"""How often services that other gateway processes added or removed are looked for."""

_UNDECLARED_LATE_S: Final = 86_400.0
"""Time limit of promises made before the service stopped declaring `late_s`."""

State = Literal["ready", "unreachable", "refused"]


class InfoClient(Asked, Protocol):
    """The methods of a service's client that the registry and its checks use."""

    async def info(self, timeout_s: float = ...) -> ServiceInfo: ...

    async def offer_weights(self, offer: WeightsOffer) -> None: ...

    async def aclose(self) -> None: ...


Connect = Callable[[str, str, AddressPolicy], InfoClient]
"""Makes a client from an address, a key and the policy of allowed addresses."""


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
    """The service answers, but an inspection found wrong answers."""
    quarantined: bool = False
    """Its answers since the last inspection that passed are no longer served."""
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    def known_info(self) -> ServiceInfo:
        """The last information that the service sent.

        Raises:
            ServiceUnavailable: it has never answered, or an inspection found wrong answers.
        """
        if self.info is None or self.broken:
            # A finding holds for ASKED_AGAIN_S; a caller that cannot wait so long fails at once.
            retry_after_s = ASKED_AGAIN_S if self.broken else 1.0
            raise ServiceUnavailable(
                f"{self.name} is not ready: {self.detail}",
                field=self.role,
                retry_after_s=retry_after_s,
            )
        return self.info

    def status(self) -> ServiceStatus:
        """The state for callers, without the address."""
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
        self._changing = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None
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
        """Stores the services of the settings, loads the others, and starts the requests."""
        async with self._database.write() as conn:
            for entry in self._entries.values():
                await services.put_service(conn, _row(entry))
            for row in await services.runtime_services(conn):
                self._entries.setdefault(row.name, _entry(row))
            for entry in self._entries.values():
                await self._recall(conn, entry)
        for entry in self._entries.values():
            self._watch(entry)
        if self._database.may_be_shared:
            self._following = asyncio.create_task(self._follow_forever(), name="follow registry")

    async def _recall(self, conn: Connection, entry: ServiceEntry) -> None:
        """Reads what is stored of a service: its last information and its canary's answers."""
        known = await services.last_info(conn, entry.name)
        entry.info = None if known is None else ServiceInfo.model_validate(known)
        self._remember(entry.name, await quarantine.canary(conn, entry.name))

    async def _follow_forever(self) -> None:
        while True:
            await asyncio.sleep(_FOLLOW_S)
            try:
                async with self._changing:
                    await self._follow()
            except ServiceUnavailable as error:
                _log.warning("changes of the services are not read: %s", error.detail)
            except Exception:
                # The error boundary of a background task.
                _log.exception("following the services failed")

    async def _follow(self) -> None:
        """Takes over services that other gateway processes added, replaced or removed."""
        async with self._database.read() as conn:
            rows = {row.name: row for row in await services.runtime_services(conn)}
            changed = [_entry(row) for row in rows.values() if self._differs(row)]
            for entry in changed:
                self._forget(entry.name)
                await self._recall(conn, entry)
        own = [name for name, entry in self._entries.items() if entry.added_at_runtime]
        for name in own:
            if name not in rows:
                self._forget(name)
                del self._entries[name]
                _log.info("%s was removed at another gateway process", name)
        for entry in changed:
            self._entries[entry.name] = entry
            self._watch(entry)
            _log.info("%s was added at another gateway process", entry.name)

    def _differs(self, row: ServiceRow) -> bool:
        there = self._entries.get(row.name)
        if there is None:
            return True
        return there.added_at_runtime and _row(there) != _row(_entry(row))

    def _remember(self, name: str, stored: dict[str, Any] | None) -> None:
        if stored is None:
            return
        try:
            self._inspector.remember(name, CanaryAnswers.model_validate(stored))
        except ValidationError:
            # Of a release with other fields; the next canary is compared with the known file alone.
            _log.warning("the last canary's answers of %s cannot be read", name)

    async def stop(self) -> None:
        tasks = [*self._tasks.values(), *filter(None, [self._following])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def get(self, name: str, role: ServiceRole, *, field: str) -> ServiceEntry:
        """The service of that name.

        Raises:
            NotFound: no service of this role has that name; the error names `field`.
        """
        entry = self._entries.get(name)
        if entry is None or entry.role != role:
            raise NotFound(f"no {role} is named {name!r}", field=field)
        return entry

    def with_weights(self) -> list[ServiceEntry]:
        """Experts that are ready and answer with versioned weights."""
        return [
            entry
            for entry in self._entries.values()
            if entry.role == "expert"
            and entry.state == "ready"
            and entry.info is not None
            and entry.info.capabilities.weights
        ]

    def cost(self, name: str, num_tokens: int) -> float:
        """Price of an answer about `num_tokens` tokens, for answers that state no price.

        The price of an answer in the settings; without one, `num_tokens` times the service's
        declared `cost_per_token`.
        """
        entry = self._entries.get(name)
        if entry is None:
            return 0.0
        if entry.cost or entry.info is None:
            return entry.cost
        return num_tokens * (entry.info.capabilities.cost_per_token or 0.0)

    def addresses_of(self, entry: ServiceEntry) -> AddressPolicy:
        """The policy of allowed addresses for the service."""
        return self._policies[entry.added_at_runtime]

    def late_s(self, name: str) -> float:
        """Seconds within which the service must deliver a promised answer."""
        entry = self._entries.get(name)
        declared = None if entry is None or entry.info is None else entry.info.capabilities.late_s
        return _UNDECLARED_LATE_S if declared is None else declared

    def names_of(self, name: str) -> frozenset[str]:
        """Valid names of a service: the one in the deployment and the one that it declares."""
        entry = self._entries.get(name)
        said = () if entry is None or entry.info is None else (entry.info.name,)
        return frozenset((name, *said))

    def names(self) -> tuple[str, ...]:
        """The names of all services."""
        return tuple(self._entries)

    def statuses(self) -> tuple[ServiceStatus, ...]:
        """The status of every service, sorted by name."""
        return tuple(self._entries[name].status() for name in sorted(self._entries))

    def addresses(self) -> tuple[ServiceAddress, ...]:
        """The address of every service."""
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
        """Every version of a service, the last one first, and when it was last recorded.

        Raises:
            NotFound: there is no such service.
        """
        if name not in self._entries:
            raise NotFound(f"no service is named {name!r}", field="name")
        async with self._database.read() as conn:
            rows = await services.versions(conn, name)
        return [(ServiceInfo.model_validate(row.info), row.seen_at) for row in rows]

    async def add_new(self, new: NewService) -> ServiceStatus:
        """Adds the service that a caller of the gateway describes.

        Raises:
            Invalid: its key file is not in the folder of service keys, or its address is not
                allowed.
            Conflict: another service has the name.
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
        """Removes a service that was added at run time; its answers stay.

        Raises:
            NotFound: no service has that name.
            Conflict: the service comes from the settings.
        """
        async with self._changing:
            await self._follow_others()
            await self._remove(name)

    async def _remove(self, name: str) -> None:
        entry = self._entries.get(name)
        if entry is None:
            raise NotFound(f"no service is named {name!r}", field="name")
        if not entry.added_at_runtime:
            raise Conflict(
                f"{name!r} is a {entry.role} of the settings; remove it from the settings file",
                field="name",
            )
        async with self._database.write() as conn:
            await services.forget_service(conn, name)
            await quarantine.forget_canary(conn, name)
        self._forget(name)
        del self._entries[name]

    def _forget(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
        self._inspector.forget(name)

    async def add(self, entry: ServiceEntry, *, replaces: bool = False) -> None:
        """Adds a service permanently, or replaces one that was added at run time.

        Raises:
            Conflict: another service has the name.
        """
        async with self._changing:
            await self._follow_others()
            await self._add(entry, replaces)

    async def _follow_others(self) -> None:
        """Before a change: what other processes did may decide whether it is valid."""
        if self._database.may_be_shared:
            await self._follow()

    async def _add(self, entry: ServiceEntry, replaces: bool) -> None:
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
            await quarantine.forget_canary(conn, entry.name)
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
                async with self.connected(entry) as client:
                    while True:
                        await self._ask_guarded(entry, client)
                        await asyncio.sleep(_pause_s(entry))
            except (OSError, ValueError) as error:
                # The key file or the address is at fault; either may be corrected at run time.
                entry.state, entry.detail = "refused", str(error)
                _log.error("cannot connect to %s: %s", entry.name, error)
            await asyncio.sleep(_READY_S)

    async def _ask_guarded(self, entry: ServiceEntry, client: InfoClient) -> None:
        try:
            await self._ask(entry, client)
        except Exception:
            # Boundary of a background task: after any failure the service is asked again.
            entry.state, entry.detail = (
                "refused",
                "the request for /v1/info failed; see the gateway's log",
            )
            _log.exception("the request to %s failed", entry.name)

    @contextlib.asynccontextmanager
    async def connected(self, entry: ServiceEntry) -> AsyncGenerator[InfoClient]:
        """A client of a service, closed at the end of the block.

        Raises:
            OSError, ValueError: its key file or its address is at fault.
        """
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
                raise ServiceFailed(f"the service declares the role {info.role}, not {entry.role}")
            check_contract(info.contract, entry.name)
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
            # The gateway's database failed, not the service; the next request stores it.
            _log.warning("the information of %s is not stored: %s", entry.name, error.detail)

    async def _quarantine(self, entry: ServiceEntry, reason: str) -> None:
        """Stops serving the answers since the last inspection that passed."""
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
            # Calls that were under way at the failed inspection have returned meanwhile.
            await self._quarantine(entry, "the call began before the service was corrected")
        answers = self._inspector.last_answers(entry.name)
        canary = None if answers is None else answers.model_dump(mode="json")
        async with self._database.write() as conn:
            await quarantine.note_good(conn, entry.name, asked_at, canary)
        entry.quarantined = False

    async def quarantined(self, name: str, after: str, limit: int) -> list[tuple[str, str]]:
        """Targets, with their rollouts, built from answers of a service that may be wrong.

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
            _log.info("%s is ready, version %s", entry.name, info.version)
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
        # A file is read again each time; answers that came by a call exist only here.
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
