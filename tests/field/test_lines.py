"""JSONL is cut at its line ends alone, by every reader, and an export can be imported."""

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

from preceptor_clients.contract.json_lines import lines_of
from preceptor_services.corrections.command import app
from preceptor_services.jobs.embedded_broker import free_port
from preceptor_trainer.run.watching.metrics_log import METRICS_FILE, read_metrics

SEPARATORS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"
"""What `str.splitlines` takes for line ends beside `\\n` and `\\r`."""


def item(text: str) -> dict[str, Any]:
    return {"prompt": {"messages": [{"role": "user", "content": "Say it."}]}, "response_text": text}


def written(path: Path, *texts: str, start: bytes = b"", end: str = "\n") -> Path:
    lines = [json.dumps(item(text), ensure_ascii=False) + end for text in texts]
    path.write_bytes(start + "".join(lines).encode())
    return path


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
    yield ["--url", f"http://127.0.0.1:{port}", "--key-file", str(tmp_path / "keys" / "admin.key")]
    server.should_exit = True
    thread.join()


def run(*words: str) -> Result:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def texts_of(exported: bytes) -> list[str]:
    lines = exported.decode().removesuffix("\n").split("\n")
    return [json.loads(line)["item"]["response_text"] for line in lines]


def test_only_a_line_end_ends_a_line() -> None:
    content = f'{{"a": "{SEPARATORS}"}}\r\n\n \t\r\n{{"b": 1}}'.encode()

    lines = lines_of(b"\xef\xbb\xbf" + content)

    assert [line.number for line in lines] == [1, 4]
    assert json.loads(lines[0].text, strict=False) == {"a": SEPARATORS}
    assert json.loads(lines[1].text) == {"b": 1}


@pytest.mark.parametrize(
    ("texts", "start", "end"),
    [
        (["one\u2028two\u2029three", "plain"], b"", "\n"),
        (["price\x85list\x7f"], b"", "\n"),
        ([f"all of them: {SEPARATORS} and \u0000"], b"", "\n"),
        (["from a table"], b"\xef\xbb\xbf", "\r\n"),
    ],
)
def test_any_text_is_sent_exported_and_imported(
    place: list[str], tmp_path: Path, texts: list[str], start: bytes, end: str
) -> None:
    sent = written(tmp_path / "sent.jsonl", *texts, start=start, end=end)
    exported = tmp_path / "exported.jsonl"

    assert f"{len(texts)} items are new" in run("send", "r", "--file", str(sent), *place).output
    exported.write_bytes(run("export", "--round", "r", *place).stdout_bytes)
    imported = run("import", str(exported), "--round", "other", *place).output

    assert texts_of(exported.read_bytes()) == texts
    assert f"{len(texts)} items and 0 versions are new" in imported
    assert texts_of(run("export", "--round", "other", *place).stdout_bytes) == texts


def test_a_file_that_is_not_utf8_is_named(place: list[str], tmp_path: Path) -> None:
    file = tmp_path / "sent.jsonl"
    file.write_bytes(json.dumps(item("x")).encode("utf-16"))

    result = CliRunner().invoke(app, ["send", "r", "--file", str(file), *place])

    assert result.exit_code == 1
    assert "sent.jsonl" in result.stderr
    assert "UTF-8" in result.stderr


def test_metrics_are_read_by_their_lines_alone_and_a_torn_one_is_left(tmp_path: Path) -> None:
    lines = [json.dumps({"step": n, "note": SEPARATORS}, ensure_ascii=False) for n in range(2)]
    content = "\n".join([*lines, '{"step": 2']).replace("\x0b", "").replace("\x0c", "")
    for control in "\x1c\x1d\x1e":
        content = content.replace(control, "")
    (tmp_path / METRICS_FILE).write_text(content, encoding="utf-8")

    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1]
