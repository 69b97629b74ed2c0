"""Writes answers and then their tickets, in the transaction of the caller.

Each statement covers all questions of a report, independent of their number of jobs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from preceptor_clients.contract.errors import ProblemDetails
from preceptor_services.kit.array_blobs import Written
from preceptor_services.questions.accept import Acceptance
from preceptor_services.store import services
from preceptor_services.store.database import Connection
from preceptor_services.store.provenance import feedback
from preceptor_services.store.questions import answers, tickets
from preceptor_services.store.questions.tickets import Settled


async def write_acceptance(
    conn: Connection, acceptance: Acceptance, pack: Written | None, now: float
) -> list[Settled]:
    """Writes an acceptance; returns the tickets that it settles."""
    if pack is not None:
        await services.add_blobs(conn, {pack.sha256: pack.size}, now)
    await _finish(conn, acceptance)
    await feedback.add_items(conn, acceptance.items)
    await feedback.add_used(conn, acceptance.used)
    await answers.promise(conn, list(acceptance.promised))
    settled: list[Settled] = []
    if acceptance.done:
        settled += await tickets.settle(conn, list(acceptance.done), "done")
    if acceptance.promised:
        settled += await tickets.settle(conn, list(acceptance.promised), "waiting")
        await tickets.extend(conn, acceptance.promised)
    return settled + await fail_questions(conn, acceptance.failed)


async def _finish(conn: Connection, acceptance: Acceptance) -> None:
    """Writes answers; those of experts and of sources have different columns."""
    by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for values in acceptance.done.values():
        by_columns.setdefault(tuple(values), []).append(values)
    for rows in by_columns.values():
        await answers.finish(conn, rows)


async def fail_questions(conn: Connection, failed: Mapping[str, ProblemDetails]) -> list[Settled]:
    """Fails questions and their tickets; equal problems share a statement."""
    groups: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for key, problem in failed.items():
        reason = document(problem)
        groups.setdefault(json.dumps(reason, sort_keys=True), (reason, []))[1].append(key)
    settled: list[Settled] = []
    for reason, keys in groups.values():
        await answers.fail(conn, keys, reason)
        settled += await tickets.settle(conn, keys, "failed", reason)
    return settled


def document(problem: ProblemDetails) -> dict[str, Any]:
    """A problem as the value of a JSON column."""
    return problem.model_dump(mode="json", exclude_none=True)
