"""The command against a gateway that listens."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from typer.testing import CliRunner, Result

from preceptor_services.corrections.command import app
from preceptor_services.jobs.embedded_broker import free_port


@pytest.fixture
def place(tmp_path: Path, make_app: Any) -> Iterator[list[str]]:
    """Options that name a gateway which runs in a thread."""
    port = free_port()
    config = uvicorn.Config(make_app(tmp_path), port=port, log_level="warning", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    key_file = str(tmp_path / "keys" / "admin.key")
    yield ["--url", f"http://127.0.0.1:{port}", "--key-file", key_file]
    server.should_exit = True
    thread.join()


def run(*words: str) -> Result:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_people_are_let_in_listed_and_retired(place: list[str]) -> None:
    key = run("people", "add", "ann", "--role", "reviewer", *place).output.strip()
    listed = run("people", "list", *place).output
    retired = run("people", "retire", "ann", "--reason", "left", *place).output

    assert len(key) > 30
    assert "ann" in listed
    assert "reviewer" in listed
    assert "0 versions retired" in retired


def test_what_is_exported_can_be_imported(place: list[str], tmp_path: Path) -> None:
    line = {
        "id": "ci-elsewhere",
        "round": "old",
        "state": "done",
        "created_at": 1.0,
        "item": {
            "prompt": {"messages": [{"role": "user", "content": "?"}]},
            "response_text": "wrong",
        },
        "versions": [
            {
                "id": "cv-1",
                "item": "ci-elsewhere",
                "person": "bob",
                "decision": "edit",
                "text": "right",
                "created_at": 2.0,
                "authoritative": True,
            }
        ],
    }
    file = tmp_path / "in.jsonl"
    file.write_text(json.dumps(line) + "\n")

    imported = run("import", str(file), "--round", "new", *place).output
    again = run("import", str(file), "--round", "new", *place).output
    [exported] = run("export", "--round", "new", *place).output.splitlines()

    assert "1 items and 1 versions are new" in imported
    assert "0 items and 0 versions are new" in again
    [version] = json.loads(exported)["versions"]
    assert (version["text"], version["authoritative"]) == ("right", True)


def test_responses_from_outside_any_run_are_sent_by_hand(place: list[str], tmp_path: Path) -> None:
    lines = [
        {"prompt": {"messages": [{"role": "user", "content": "?"}]}, "response_text": text}
        for text in ("one", "two")
    ]
    file = tmp_path / "logs.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines) + "\n")

    sent = run("send", "production", "--file", str(file), *place).output
    again = run("send", "production", "--file", str(file), *place).output
    exported = run("export", "--round", "production", *place).output.splitlines()

    assert "2 items are new, 0 were known" in sent
    assert "0 items are new, 2 were known" in again
    assert [json.loads(line)["item"]["response_text"] for line in exported] == ["one", "two"]


def test_a_wrong_line_is_named_and_sends_nothing(place: list[str], tmp_path: Path) -> None:
    file = tmp_path / "logs.jsonl"
    good = {"prompt": {"messages": [{"role": "user", "content": "?"}]}, "response_text": "one"}
    file.write_text(json.dumps(good) + "\n{}\n")

    result = CliRunner().invoke(app, ["send", "production", "--file", str(file), *place])
    exported = run("export", "--round", "production", *place).output

    assert result.exit_code == 1
    assert "line 2" in result.stderr
    assert exported == ""


def test_a_rollout_that_is_not_recorded_is_named(place: list[str]) -> None:
    result = CliRunner().invoke(app, ["send", "chosen", "--rollout", "nowhere", *place])

    assert result.exit_code == 1
    assert "nowhere" in result.stderr
