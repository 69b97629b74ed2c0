"""Printed commands work where they are printed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from preceptor_clients.cli.paste import pasted, program

OWN = Path(sys.executable).parent


def test_the_name_is_enough_where_the_shell_finds_this_program(monkeypatch):
    monkeypatch.setenv("PATH", str(OWN), prepend=os.pathsep)

    assert program() == "preceptor"


def test_without_the_environment_the_path_of_the_program_is_printed(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)

    printed = pasted("version")

    done = subprocess.run(printed, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert printed.startswith(str(OWN))


def test_another_environments_program_of_that_name_is_not_meant(monkeypatch, tmp_path):
    other = tmp_path / "preceptor"
    other.write_text("#!/bin/sh\nexit 3\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert program() != "preceptor"


def test_below_the_working_folder_the_path_is_short(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.chdir(OWN.parent)

    assert program() == "bin/preceptor"


@pytest.mark.parametrize("word", ["my runs/a", "it's", "$HOME", "a;b"])
def test_words_are_quoted_for_the_shell(word):
    assert shlex.split(pasted("trace", "--run-dir", word))[-1] == word
