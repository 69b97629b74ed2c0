"""Queries about API keys, services and blobs' rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_services.store.prepared import insert_new
from preceptor_services.store.tables.questions import ApiKey, Blob, Service, ServiceVersion


class ServiceRow(NamedTuple):
    """One service."""

    name: str
    role: str
    url: str
    key_file: str
    cost: float
    priority: int
    self_test: bool
    known: dict[str, Any] | None


class KeyRow(NamedTuple):
    """A key that is valid."""

    name: str
    token_hmac: str
    scopes: list[Any]


async def valid_keys(conn: AsyncConnection) -> list[KeyRow]:
    """The keys that are not revoked."""
    query = select(ApiKey.name, ApiKey.token_hmac, ApiKey.scopes).where(ApiKey.revoked_at.is_(None))
    return [KeyRow(*row) for row in await conn.execute(query)]


async def replace_keys(conn: AsyncConnection, rows: Sequence[dict[str, Any]], now: float) -> None:
    """Makes `rows` the valid keys; every other one is revoked, and its row stays."""
    names = [row["name"] for row in rows]
    await conn.execute(delete(ApiKey).where(ApiKey.name.in_(names)))
    await conn.execute(update(ApiKey).where(ApiKey.revoked_at.is_(None)).values(revoked_at=now))
    if rows:
        await conn.execute(insert(ApiKey), list(rows))


async def put_service(conn: AsyncConnection, row: dict[str, Any]) -> None:
    """Adds a service or updates its settings."""
    await insert_new(conn, Service, [row])
    await conn.execute(update(Service).where(Service.name == row["name"]).values(**row))


async def runtime_services(conn: AsyncConnection) -> list[ServiceRow]:
    """Services that were added by a call and not by the settings."""
    query = select(
        Service.name,
        Service.role,
        Service.url,
        Service.key_file,
        Service.cost,
        Service.priority,
        Service.self_test,
        Service.known,
    ).where(Service.added_at_runtime.is_(True))
    return [ServiceRow(*row) for row in await conn.execute(query)]


async def forget_service(conn: AsyncConnection, name: str) -> None:
    """Removes a service from the list; its row stays, because versions and answers refer to it."""
    await conn.execute(
        update(Service).where(Service.name == name).values(added_at_runtime=False, known=None)
    )


class VersionRow(NamedTuple):
    """One version of a service."""

    version: str
    info: dict[str, Any]
    seen_at: float


async def add_version(conn: AsyncConnection, row: dict[str, Any]) -> None:
    """Records the current version of a service; a known version becomes the last one again."""
    await insert_new(conn, ServiceVersion, [row])
    of_version = (
        ServiceVersion.service == row["service"],
        ServiceVersion.version == row["version"],
    )
    await conn.execute(
        update(ServiceVersion).where(*of_version).values(info=row["info"], seen_at=row["seen_at"])
    )


async def versions(conn: AsyncConnection, service: str) -> list[VersionRow]:
    """Every recorded version of a service, the last one first."""
    query = (
        select(ServiceVersion.version, ServiceVersion.info, ServiceVersion.seen_at)
        .where(ServiceVersion.service == service)
        .order_by(ServiceVersion.seen_at.desc())
    )
    return [VersionRow(*row) for row in await conn.execute(query)]


async def last_info(conn: AsyncConnection, service: str) -> dict[str, Any] | None:
    """The information of the last recorded version of a service."""
    query = (
        select(ServiceVersion.info)
        .where(ServiceVersion.service == service)
        .order_by(ServiceVersion.seen_at.desc())
        .limit(1)
    )
    return (await conn.execute(query)).scalar()


async def add_blobs(conn: AsyncConnection, blobs: dict[str, int], now: float) -> None:
    """Records stored blobs, by SHA-256, with their sizes."""
    rows = [
        {"sha256": sha, "size": size, "created_at": now, "dropped_at": None}
        for sha, size in blobs.items()
    ]
    await insert_new(conn, Blob, rows)


async def known_blobs(conn: AsyncConnection, shas: Sequence[str]) -> set[str]:
    """Those of `shas` that are stored and not deleted."""
    query = select(Blob.sha256).where(Blob.sha256.in_(shas), Blob.dropped_at.is_(None))
    return set((await conn.execute(query)).scalars())
