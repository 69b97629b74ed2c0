"""Claims about commands in a sandbox, with real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from preceptor_services.sandbox.command import Command, CommandLimits, Sandbox
from preceptor_services.sandbox.ladder import open_sandbox


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    opened = open_sandbox()
    yield opened
    opened.stop()


def test_a_program_reads_its_input_and_its_outputs_come_back_apart(sandbox: Sandbox) -> None:
    program = (
        "import os, sys\n"
        "print(int(input()) + 1)\n"
        "print('warned', file=sys.stderr)\n"
        "os.write(3, b'result')\n"
        "open('made', 'w').write('kept')\n"
        "sys.exit(7)\n"
    )

    found = sandbox.execute(
        Command(files={"main.py": program}, stdin=b"41\n", keep=("made", "never")),
        CommandLimits(cpu_seconds=5),
    )

    assert (found.ended_by, found.exit_code) == ("exit", 7)
    assert (found.stdout, found.stderr, found.result) == (b"42\n", b"warned\n", b"result")
    assert found.files == {"made": b"kept"}
    assert found.rung == "namespaces"


@pytest.mark.parametrize("name", ["../main.py", "/etc/passwd", ""])
def test_a_file_outside_the_private_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="private folder"):
        Command(files={name: ""})
