"""The command against a gateway that listens."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from typer.main import get_command
from typer.testing import CliRunner, Result

from preceptor_clients.contract.corrections import EditRules, RoundSettings
from preceptor_services.corrections import round_command
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
    key = run("people", "add", "ann", "--role", "reviewer", *place).stdout.strip()
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


def test_who_is_let_in_is_told_where_to_sign_in_and_the_key_stands_alone(
    place: list[str],
) -> None:
    added = run("people", "add", "ann", *place)
    renewed = run("people", "new-key", "ann", *place)

    for printed in (added, renewed):
        assert len(printed.stdout.split()) == 1
        assert f"{place[1]}/corrections/" in printed.stderr
    page = httpx.get(f"{place[1]}/corrections/")
    assert page.headers["content-type"].startswith("text/html")


def test_a_round_is_made_changed_listed_and_closed(place: list[str], tmp_path: Path) -> None:
    guide = tmp_path / "guide.md"
    guide.write_text("Be brief.")

    made = run("round", "set", "r", "--guidelines", f"@{guide}", "--budget", "7", *place).output
    changed = run("round", "set", "r", "--double-share", "0.5", "--review", "always", *place).output
    unbounded = run("round", "set", "r", "--no-budget", *place).output
    closed = run("round", "close", "r", *place).output
    listed = run("round", "list", *place).output

    assert "7 items, double share 0.1, review disagreement, guidelines: 9 characters" in made
    assert "7 items, double share 0.5, review always, guidelines: 9 characters" in changed
    assert "any number of items, double share 0.5" in unbounded
    assert "lease 900 s, 3 skips, rejoin_tokens 3" in unbounded
    assert closed.startswith("r is closed")
    assert listed == closed.strip() + "; 0 open, 0 in work, 0 in review, 0 settled\n"


def test_every_rule_of_a_round_can_be_set_by_the_command() -> None:
    command = get_command(round_command.app).commands["set"]  # type: ignore[attr-defined]  a group
    settable = {parameter.name for parameter in command.params}
    others = {name for name in RoundSettings.model_fields if name not in ("closed", "edits")}

    assert others | set(EditRules.model_fields) <= settable
    assert {"close", "open"} <= set(get_command(round_command.app).commands)  # type: ignore[attr-defined]


def test_rules_for_edits_are_set_and_fixed_from_the_first_item_on(
    place: list[str], tmp_path: Path
) -> None:
    made = run("round", "set", "r", "--rejoin-tokens", "1000", *place).output
    kept = run("round", "set", "r", "--max-skips", "5", *place).output
    run("send", "r", "--file", str(_file(tmp_path, [_response("one")])), *place)
    late = CliRunner().invoke(app, ["round", "set", "r", "--rejoin-tokens", "3", *place])

    assert "rejoin_tokens 1000" in made
    assert "5 skips, rejoin_tokens 1000" in kept
    assert late.exit_code == 1
    assert "compiled with rejoin_tokens 1000; make another round" in late.stderr


def test_an_export_brings_its_rounds_rules_for_edits(place: list[str], tmp_path: Path) -> None:
    run("round", "set", "r", "--rejoin-tokens", "1000", *place)
    run("send", "r", "--file", str(_file(tmp_path, [_response("one")])), *place)
    run("round", "set", "other", *place)
    file = tmp_path / "export.jsonl"
    file.write_text(run("export", "--round", "r", *place).output)

    run("import", str(file), "--round", "copy", *place)
    refused = CliRunner().invoke(app, ["import", str(file), "--round", "other", *place])

    listed = run("round", "list", *place).output.splitlines()
    [copy] = [line for line in listed if line.startswith("copy")]
    assert "rejoin_tokens 1000" in copy
    assert refused.exit_code == 1
    assert "import into a new round" in refused.stderr


def test_an_export_of_rounds_with_different_rules_is_refused_whole(
    place: list[str], tmp_path: Path
) -> None:
    # More than one request takes.
    many = [_exported(_response(f"{n}")) | {"edits": {"rejoin_tokens": 3}} for n in range(60)]
    lines = [*many, _exported(_response("last")) | {"edits": {"rejoin_tokens": 9}}]
    words = ["import", str(_file(tmp_path, lines)), "--round", "new", *place]

    refused = CliRunner().invoke(app, words)

    assert refused.exit_code == 1
    assert "one by one" in refused.stderr
    assert run("round", "list", *place).output == ""


def test_an_export_of_an_older_version_is_imported_with_the_rounds_own_rules(
    place: list[str], tmp_path: Path
) -> None:
    run("round", "set", "r", "--rejoin-tokens", "7", *place)
    file = _file(tmp_path, [_exported(_response("one"))])

    imported = run("import", str(file), "--round", "r", *place).output

    assert "1 items and 0 versions are new" in imported
    assert "rejoin_tokens 7" in run("round", "list", *place).output


def _response(text: str) -> dict[str, Any]:
    return {"prompt": {"messages": [{"role": "user", "content": "?"}]}, "response_text": text}


def _exported(item: dict[str, Any]) -> dict[str, Any]:
    return {"id": "ci-1", "round": "old", "state": "open", "created_at": 1.0, "item": item}


def _file(folder: Path, lines: list[dict[str, Any]]) -> Path:
    file = folder / "lines.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_what_is_no_rule_of_a_round_is_named_before_anything_is_changed(place: list[str]) -> None:
    words = ["round", "set", "r", "--double-share", "2", "--review", "sometimes", *place]

    refused = CliRunner().invoke(app, words)
    unknown = CliRunner().invoke(app, ["round", "close", "nowhere", *place])
    listed = run("round", "list", *place).output

    assert refused.exit_code == 2
    assert "double_share" in refused.stderr
    assert "review" in refused.stderr
    assert (unknown.exit_code, "no round 'nowhere'" in unknown.stderr) == (1, True)
    assert listed == ""


def test_agreement_is_printed_for_an_admins_key(place: list[str]) -> None:
    run("round", "set", "r", *place)

    printed = run("agreement", "r", *place).output

    assert json.loads(printed)["pairs"] == 0


def test_a_folder_without_a_deployment_is_named_with_what_to_give(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["people", "list", "--run-dir", str(tmp_path)])

    assert result.exit_code == 1
    assert f"neither {tmp_path} nor a folder above it has resolved.toml" in result.stderr
    assert "--url and --key-file" in result.stderr
