"""Writes verdicts, in the transaction of the caller: answers first, then the tickets behind them.

A statement is made once for all questions that it concerns, however many jobs they came from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from preceptor_clients.contract.errors import Problem
from preceptor_services.kit.array_blobs import Written
from preceptor_services.questions.accept import Verdict
from preceptor_services.store import services
from preceptor_services.store.provenance import feedback
from preceptor_services.store.questions import answers, tickets
from preceptor_services.store.questions.tickets import Settled


async def write_verdict(
    conn: AsyncConnection, verdict: Verdict, pack: Written | None, now: float
) -> list[Settled]:
    """Stores what was judged; the tickets that it settles."""
    if pack is not None:
        await services.add_blobs(conn, {pack.sha256: pack.size}, now)
    await _finish(conn, verdict)
    await feedback.add_items(conn, verdict.items)
    await feedback.add_used(conn, verdict.used)
    await answers.promise(conn, list(verdict.promised))
    settled: list[Settled] = []
    if verdict.done:
        settled += await tickets.settle(conn, list(verdict.done), "done")
    if verdict.promised:
        settled += await tickets.settle(conn, list(verdict.promised), "waiting")
    return settled + await fail_questions(conn, verdict.failed)


async def _finish(conn: AsyncConnection, verdict: Verdict) -> None:
    """Answers of experts and of sources fill different columns."""
    by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for values in verdict.done.values():
        by_columns.setdefault(tuple(values), []).append(values)
    for rows in by_columns.values():
        await answers.finish(conn, rows)


async def fail_questions(conn: AsyncConnection, failed: Mapping[str, Problem]) -> list[Settled]:
    """Questions that will not be answered, and their tickets; equal problems go together."""
    groups: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for key, problem in failed.items():
        reason = document(problem)
        groups.setdefault(json.dumps(reason, sort_keys=True), (reason, []))[1].append(key)
    settled: list[Settled] = []
    for reason, keys in groups.values():
        await answers.fail(conn, keys, reason)
        settled += await tickets.settle(conn, keys, "failed", reason)
    return settled


def document(problem: Problem) -> dict[str, Any]:
    """A problem as a JSON column holds it."""
    return problem.model_dump(mode="json", exclude_none=True)
