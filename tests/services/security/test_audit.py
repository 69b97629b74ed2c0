"""The audit log: who did what, which cannot be changed without being found."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from preceptor_clients.contract.errors import Forbidden
from preceptor_clients.contract.operations import AuditEntry, AuditPage
from preceptor_services.kit.clock import ServerClock
from preceptor_services.provenance.audit import AuditLog, first_fault
from preceptor_services.store.database import Database

from ..world import World


async def _entries(world: World) -> list[AuditEntry]:
    page = await world.clients["admin"].call("GET", "/v1/audit", reply=AuditPage)
    return list(page.entries)


async def test_S2_every_act_of_an_admin_is_on_record_with_its_actor(world: World) -> None:
    admin = world.clients["admin"]
    new = {"name": "later", "url": "http://127.0.0.1:1", "key_file": "service.key"}
    await _send(admin, "POST", "/v1/experts", new)
    await _send(admin, "DELETE", "/v1/experts/later")
    await _send(admin, "POST", "/v1/corrections/people", {"name": "ann", "role": "annotator"})
    await _send(admin, "POST", "/v1/corrections/people/ann/key")
    await _send(admin, "DELETE", "/v1/corrections/people/ann/key")
    await _send(admin, "POST", "/v1/corrections/people/ann/retire", {"reason": "left"})
    await _send(admin, "PUT", "/v1/corrections/rounds/first", {})
    await world.publish("p/l/0")
    await world.publish("p/l/0")

    acts = [(e.actor, e.action, e.subject) for e in await _entries(world) if e.actor != "gateway"]
    assert acts == [
        ("admin", "service.add", "later"),
        ("admin", "service.remove", "later"),
        ("admin", "person.add", "ann"),
        ("admin", "person.key", "ann"),
        ("admin", "person.revoke", "ann"),
        ("admin", "person.retire", "ann"),
        ("admin", "round.put", "first"),
        ("trainer", "weights.register", "p/l/0"),
    ]


async def _send(client: Any, method: str, path: str, body: Any = None) -> None:
    content = None if body is None else json.dumps(body).encode()
    await client.exchange(method, path, content=content, content_type="application/json")


async def test_S1_only_an_admin_reads_the_audit_log(world: World) -> None:
    with pytest.raises(Forbidden):
        await world.trainer.call("GET", "/v1/audit", reply=AuditPage)


async def test_the_file_has_a_line_for_each_entry(world: World) -> None:
    await world.publish("p/l/0")

    lines = (world.settings.gateway.blobs / "audit.jsonl").read_text().splitlines()

    assert [AuditEntry.model_validate_json(line) for line in lines] == await _entries(world)


async def test_pages_of_the_audit_log_join_to_the_whole(world: World) -> None:
    whole, parts, after = await _entries(world), [], 0
    while after is not None:
        path = f"/v1/audit?after={after}&limit=2"
        page = await world.clients["admin"].call("GET", path, reply=AuditPage)
        parts += page.entries
        after = page.after

    assert parts == whole
    assert first_fault(whole) is None


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (lambda es: [es[0], es[1].model_copy(update={"actor": "nobody"}), es[2]], "2 was changed"),
        (lambda es: [es[0], es[2]], "entry 2 is missing"),
        (lambda es: [es[0], es[1].model_copy(update={"sha256": "0" * 64}), es[2]], "2 was changed"),
        (lambda es: es[1:], "entry 1 is missing"),
    ],
)
async def test_P3_a_changed_or_missing_entry_is_found_and_named(
    world: World, fault: Any, found: str
) -> None:
    entries = await _entries(world)

    assert found in (first_fault(fault(entries[:3])) or "")


@pytest.mark.parametrize(
    "change", ["UPDATE audit SET actor = 'nobody'", "DELETE FROM audit WHERE number = 1"]
)
async def test_the_database_refuses_to_change_or_delete_an_entry(
    database: Database, tmp_path: Any, change: str
) -> None:
    log = AuditLog(database=database, clock=ServerClock(), file=tmp_path / "audit.jsonl")
    await log.record("admin", "service.add", "later")

    with pytest.raises(DBAPIError, match="only be added to"):
        async with database.write() as conn:
            await conn.execute(text(change))

    assert [entry.actor for entry in (await log.page(0, 10)).entries] == ["admin"]
