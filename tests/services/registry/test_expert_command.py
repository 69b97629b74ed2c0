"""`preceptor expert list` and `remove` against a gateway that listens."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from typer.testing import CliRunner, Result

from preceptor_clients.cli.expert import app
from preceptor_clients.contract.deployment import Deployment
from preceptor_services.gateway.app import create_app
from preceptor_services.jobs.embedded_broker import free_port
from preceptor_services.kit.blobs import LocalBlobs
from preceptor_services.store.database import Database

from ..databases import sqlite_with_tables
from ..world import RecordingQueue


@pytest.fixture
def place(tmp_path: Path) -> Iterator[list[str]]:
    """Options that name a gateway whose settings have one expert, which is away."""
    keys = tmp_path / "keys"
    keys.mkdir()
    for name in ("hash", "admin", "service"):
        (keys / f"{name}.key").write_text(name + "-" + "k" * 40)
    settings = Deployment.model_validate(
        {
            "gateway": {
                "hash_key_file": keys / "hash.key",
                "service_keys": keys,
                "blobs": tmp_path / "blobs",
            },
            "keys": {"admin": {"file": keys / "admin.key", "scopes": ["admin"]}},
            "experts": {"fixed": {"url": "http://127.0.0.1:9", "key_file": keys / "service.key"}},
        }
    )
    database = Database.open(sqlite_with_tables(tmp_path / "gateway.db"))
    gateway = create_app(settings, database, LocalBlobs(tmp_path / "blobs"), RecordingQueue())
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(gateway, port=port, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield ["--gateway", f"http://127.0.0.1:{port}", "--key-file", str(keys / "admin.key")]
    server.should_exit = True
    thread.join()


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), catch_exceptions=False)


def test_an_expert_is_added_listed_and_removed(place: list[str]) -> None:
    address = "http://127.0.0.1:9"
    added = run("add", "later", address, *place, "--service-key", "service.key", "--wait", "0")
    listed = run("list", *place)
    removed = run("remove", "later", *place)
    left = json.loads(run("list", *place, "--json").stdout)

    assert added.exit_code == 1, "nothing listens there"
    assert "later (expert) is unreachable: " in listed.stdout
    assert (removed.exit_code, removed.stdout) == (0, "later is removed\n")
    assert [one["name"] for one in left["services"]] == ["fixed"]


def test_what_cannot_be_removed_says_why(place: list[str]) -> None:
    fixed, unknown = run("remove", "fixed", *place), run("remove", "nobody", *place)

    assert (fixed.exit_code, unknown.exit_code) == (2, 2)
    assert "fixed" in fixed.stderr
    assert "nobody" in unknown.stderr


def test_a_missing_key_file_is_named_with_its_folder_and_what_makes_it(
    place: list[str], tmp_path: Path
) -> None:
    missing = tmp_path / "elsewhere" / "admin.key"

    refused = run("list", *place[:2], "--key-file", str(missing))
    made = run("key", str(missing))
    again = run("key", str(missing))

    assert refused.exit_code == 2
    assert f"no such file in {missing.parent}" in refused.stderr
    assert f"preceptor expert key {missing}" in refused.stderr
    assert made.stdout == f"{missing} is new\n"
    assert again.stdout == f"{missing} was there and is kept\n"
    assert missing.stat().st_mode & 0o777 == 0o600


def test_targets_in_quarantine_are_printed_as_a_table_and_as_json(
    place: list[str], tmp_path: Path
) -> None:
    nothing = run("quarantine", "fixed", *place)
    _quarantine(tmp_path / "gateway.db", num_targets=1200)

    table = run("quarantine", "fixed", *place)
    listed = json.loads(run("quarantine", "fixed", *place, "--json").stdout)
    unknown = run("quarantine", "nobody", *place)

    assert nothing.stdout == "0 targets of fixed are in quarantine\n"
    assert "t-0007" in table.stdout
    assert "1200 targets of fixed are in quarantine" in table.stdout
    assert listed["targets"][7] == {"id": "t-0007", "rollout_id": "r-0007"}
    assert len(listed["targets"]) == 1200
    assert unknown.exit_code == 2
    assert "nobody" in unknown.stderr


def _quarantine(file: Path, num_targets: int) -> None:
    """Rows as of a failed inspection, of which nothing else is wanted here."""
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute(
            "INSERT INTO answers (answer_key, answer_id, kind, service, version, state, ordinal, "
            "created_at) VALUES ('k', 'a', 'prefix', 'fixed', '1', 'failed', 0, 0)"
        )
        database.execute("INSERT INTO quarantined_answers VALUES ('a', 1, 'fixed', 'wrong')")
        for n in range(num_targets):
            database.execute(
                "INSERT INTO targets (id, rollout_id, builder_version, settings, settings_hash, "
                "content_hash, pack_sha256, created_at) VALUES (?, ?, '1', '{}', '', '', '', 0)",
                (f"t-{n:04}", f"r-{n:04}"),
            )
            database.execute("INSERT INTO target_answers VALUES (?, 0, 'a')", (f"t-{n:04}",))
        database.commit()
