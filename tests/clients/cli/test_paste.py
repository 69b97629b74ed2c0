"""Commands that we print can be pasted."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from preceptor_clients.cli.paste import pasted


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "a run's folder"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_path_is_whole_and_quoted(folder: Path) -> None:
    command = pasted("corrections", "--run-dir", folder)

    assert shlex.split(command)[1:] == ["corrections", "--run-dir", str(folder)]


def test_the_bare_name_is_printed_where_the_shell_finds_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))

    assert pasted("version") == "preceptor version"


def test_the_whole_path_is_printed_where_the_shell_finds_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    ran = subprocess.run(shlex.split(pasted("version")), capture_output=True, text=True)

    assert ran.returncode == 0, ran.stderr
