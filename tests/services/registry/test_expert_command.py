"""`preceptor expert list` and `remove` against a gateway that listens."""

from __future__ import annotations

import json
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
            "gateway": {"hash_key_file": keys / "hash.key", "service_keys": keys},
            "keys": {"admin": {"file": keys / "admin.key", "scopes": ["admin"]}},
            "experts": {"fixed": {"url": "http://127.0.0.1:9", "key_file": keys / "service.key"}},
        }
    )
    database = Database.open(f"sqlite+aiosqlite:///{tmp_path}/gateway.db")
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
