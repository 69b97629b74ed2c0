"""Queries about weight versions."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, insert, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_services.store.tables.provenance import Weights


async def find(conn: AsyncConnection, version: str) -> dict[str, Any] | None:
    """The manifest of one version."""
    query = select(Weights.manifest).where(Weights.version == version)
    return (await conn.execute(query)).scalar_one_or_none()


async def add(conn: AsyncConnection, row: dict[str, Any]) -> None:
    await conn.execute(insert(Weights), [row])


async def latest(conn: AsyncConnection, policy: str) -> str | None:
    """The version of `policy` that was registered last."""
    query = select(Weights.version).where(Weights.policy == policy)
    return (await conn.execute(query.order_by(Weights.serial.desc()).limit(1))).scalar()


async def newest_of_lineage(
    conn: AsyncConnection, policy: str, lineage: str, from_step: int
) -> str | None:
    """The highest step of one lineage that is at least `from_step`."""
    query = (
        select(Weights.version)
        .where(Weights.policy == policy, Weights.lineage == lineage, Weights.step >= from_step)
        .order_by(Weights.step.desc())
        .limit(1)
    )
    return (await conn.execute(query)).scalar()


async def known(conn: AsyncConnection, version: str) -> bool:
    """Whether `version` is registered."""
    query = select(func.count()).where(Weights.version == version)
    return (await conn.execute(query)).scalar_one() > 0


async def ancestry(conn: AsyncConnection, version: str) -> list[dict[str, Any]]:
    """Manifests from the first ancestor to `version` itself; empty if it is unknown."""
    chain = (
        select(Weights.version, Weights.parent, literal(0).label("depth"))
        .where(Weights.version == version)
        .cte("chain", recursive=True)
    )
    chain = chain.union_all(
        select(Weights.version, Weights.parent, chain.c.depth + 1).join(
            chain, Weights.version == chain.c.parent
        )
    )
    query = (
        select(Weights.manifest)
        .join(chain, chain.c.version == Weights.version)
        .order_by(chain.c.depth.desc())
    )
    return list((await conn.execute(query)).scalars())
