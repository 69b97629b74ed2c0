"""The audit log: who changed keys, services, people, rounds and weights, and asked jobs again.

An entry holds the hash of the one before, so that a change to the table or to the file is found
(`first_fault`). The database refuses to change or delete entries. The file beside the blobs has a
line for each entry, for collectors of logs and for the time when the database is lost.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from preceptor_clients.contract.operations import AuditEntry, AuditPage
from preceptor_services.kit.clock import Clock
from preceptor_services.kit.private import append_private, make_private_folder
from preceptor_services.store.database import Database
from preceptor_services.store.provenance import audit
from preceptor_services.store.provenance.audit import AuditRow

FILE: Final = "audit.jsonl"
_FIRST: Final = "0" * 64
_log = logging.getLogger("preceptor.gateway")


@dataclass(frozen=True, kw_only=True)
class AuditLog:
    """Adds entries and reads them."""

    database: Database
    clock: Clock
    file: Path

    async def record(self, actor: str, action: str, subject: str, **detail: Any) -> None:
        """Adds an entry after the act; `detail` holds JSON values, and never a secret."""
        async with self.database.write() as conn:
            before = await audit.last(conn)
            number = 1 if before is None else before.number + 1
            previous = _FIRST if before is None else before.sha256
            unsealed = AuditRow(
                number, self.clock.now(), actor, action, subject, detail, previous, ""
            )
            row = unsealed._replace(sha256=_seal(unsealed))
            await audit.add(conn, row)
        await asyncio.to_thread(self._append, row)

    def _append(self, row: AuditRow) -> None:
        try:
            make_private_folder(self.file.parent)
            with append_private(self.file) as file:
                file.write(json.dumps(row._asdict(), sort_keys=True).encode() + b"\n")
        except OSError as error:
            # The entry is in the database; a full disk must not undo what was done.
            _log.error("audit entry %d is not in %s: %s", row.number, self.file, error)

    async def page(self, after: int, limit: int) -> AuditPage:
        """Entries after number `after`, the oldest first."""
        async with self.database.read() as conn:
            rows = await audit.after(conn, after, limit)
        entries = tuple(AuditEntry(**row._asdict()) for row in rows)
        return AuditPage(entries=entries, after=rows[-1].number if len(rows) == limit else None)


def first_fault(entries: Iterable[AuditEntry], after: AuditEntry | None = None) -> str | None:
    """What is wrong with the first entry that does not follow from those before it."""
    previous = after
    for entry in entries:
        number = 1 if previous is None else previous.number + 1
        if entry.number != number:
            return f"entry {number} is missing: entry {entry.number} stands in its place"
        if entry.previous_sha256 != (_FIRST if previous is None else previous.sha256):
            return f"entry {entry.number} does not follow the entry before it"
        row = AuditRow(**{name: getattr(entry, name) for name in AuditRow._fields})
        if entry.sha256 != _seal(row):
            return f"entry {entry.number} was changed"
        previous = entry
    return None


def _seal(row: AuditRow) -> str:
    fields = {name: value for name, value in row._asdict().items() if name != "sha256"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
