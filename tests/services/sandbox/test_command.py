"""Claims about commands on every rung that this machine offers, with real processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from preceptor_services.sandbox.command import Command, CommandLimits, Execution
from preceptor_services.sandbox.isolation import IsolationFailed
from preceptor_services.sandbox.warm import WarmSandbox

from .conftest import descendants, open_warm

RUNGS = ("namespaces", "bubblewrap", "landlock")


@pytest.fixture(scope="module", params=RUNGS)
def box(request: pytest.FixtureRequest) -> Iterator[WarmSandbox]:
    try:
        opened = open_warm(request.param, slot=3)
    except IsolationFailed as error:
        pytest.skip(str(error))
    yield opened
    opened.stop()


def keeper_of(box: WarmSandbox) -> psutil.Process:
    """The process that forks, inside of those that only wait for it."""
    return [psutil.Process(box.pid), *descendants(box.pid)][-1]


def run(box: WarmSandbox, program: str, stdin: bytes = b"", **limits: float) -> Execution:
    allowed: dict[str, Any] = {"cpu_seconds": 5, "processes": 16, **limits}
    command = Command(files={"main.py": program}, stdin=stdin)
    return box.execute(command, CommandLimits(**allowed))


def test_a_program_reads_its_input_and_its_outputs_come_back_apart(box: WarmSandbox) -> None:
    program = (
        "import os, sys\n"
        "print(int(input()) + 1)\n"
        "print('warned', file=sys.stderr)\n"
        "os.write(3, b'result')\n"
        "open('made', 'w').write('kept')\n"
        "sys.exit(7)\n"
    )

    found = box.execute(
        Command(files={"main.py": program}, stdin=b"41\n", keep=("made", "never")),
        CommandLimits(cpu_seconds=5),
    )

    assert (found.ended_by, found.exit_code) == ("exit", 7)
    assert (found.stdout, found.stderr, found.result) == (b"42\n", b"warned\n", b"result")
    assert found.files == {"made": b"kept"}
    assert found.rung == box.describe()["level"]


def test_a_sandbox_says_who_limits_its_processes_together_and_leaves_no_group() -> None:
    box = open_warm("namespaces", slot=5)
    together = box.describe()["limits_together"]

    found = run(box, "x = bytearray(50 << 20)")
    group = box._group
    box.stop()

    assert (together == "by the keeper") == (group is None)
    if group is not None:
        assert together == f"control group, version {group.version}"
        assert group.version == 2 or 50 <= (found.group_memory_mb or 0) < 80
        assert not group._memory.exists()


def test_an_error_is_told_as_an_interpreter_tells_it(box: WarmSandbox) -> None:
    found = run(box, "def f(n):\n    return 1 // n\n\nf(0)\n")

    assert found.exit_code == 1
    assert found.stderr.decode() == (
        "Traceback (most recent call last):\n"
        '  File "main.py", line 4, in <module>\n'
        "    f(0)\n"
        '  File "main.py", line 2, in f\n'
        "    return 1 // n\n"
        "           ~~^^~~\n"
        "ZeroDivisionError: integer division or modulo by zero\n"
    )


def test_threads_exit_functions_and_modules_work_as_in_an_interpreter(box: WarmSandbox) -> None:
    program = (
        "import atexit, csv, subprocess, threading\n"
        "atexit.register(print, 'last')\n"
        "threading.Thread(target=lambda: print(__name__)).start()\n"
        "print(subprocess.run(['sh', '-c', 'echo child'], capture_output=True).stdout)\n"
    )

    found = run(box, program)

    assert found.stderr == b""
    assert sorted(found.stdout.split()) == sorted([b"__main__", b"b'child\\n'", b"last"])


def test_another_language_runs_by_its_command(box: WarmSandbox) -> None:
    add = {"add.sh": "read n; echo $((n + $1))"}
    command = Command(argv=("sh", "add.sh", "2"), files=add, stdin=b"3")

    assert box.execute(command).stdout == b"5\n"
    missing = box.execute(Command(argv=("no-such-compiler",)))
    assert (missing.exit_code, missing.stderr) == (
        127,
        b"cannot run no-such-compiler: No such file or directory\n",
    )


def test_a_file_that_a_command_made_can_be_run_by_the_next(box: WarmSandbox) -> None:
    made = box.execute(
        Command(argv=("sh", "-c", "mkdir out; echo 'echo made' > out/it"), keep=("out/it",))
    )

    found = box.execute(Command(argv=("sh", "./it"), files={"it": made.files["out/it"]}))

    assert found.stdout == b"made\n"


def test_a_link_is_no_file_to_give_back(box: WarmSandbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    program = f"import os; os.symlink({str(tmp_path)!r} + '/secret', 'out'); os.symlink('/', 'up')"

    found = box.execute(
        Command(files={"main.py": program}, keep=("out", f"up/{tmp_path}/secret", "main.py"))
    )

    assert set(found.files) == {"main.py"}


@pytest.mark.parametrize("name", ["../main.py", "/etc/passwd", ""])
def test_a_file_outside_the_private_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="private folder"):
        Command(files={name: ""})


# ---------------------------------------------------------------- limits (X2)

SPIN = "while True: pass"
IGNORE = (
    "import signal\n"
    "for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:\n"
    "    signal.signal(number, signal.SIG_IGN)\n"
    "signal.setitimer(signal.ITIMER_PROF, 0)\n"
)
FORK_AND = (
    "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n        {}\n        os._exit(0)\n"
)
DAEMON = (
    "import os, time\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if os.fork() == 0:\n"
    "        time.sleep(600)\n"
    "    os._exit(0)\n"
    "print('left')\n"
)
WRITE_ON = "import os\nwhile True: os.write({}, b'a' * 65536)"
LARGE = "f = open('f', 'wb')\nwhile True: f.write(b'a' * (1 << 20))"
MANY = "for n in range(10**6): open(f'f{n % 64}', 'ab').write(b'a' * (1 << 19))"
EMPTY_FILES = "for n in range(10**6): open(f'f{n}', 'w')"
HOLD = "held = bytearray(60 << 20); held[::4096] = b'x' * len(held[::4096]); time.sleep(600)"


@pytest.mark.parametrize(
    ("program", "limits", "ended"),
    [
        (SPIN, {"cpu_seconds": 0.1}, "cpu_time"),
        (IGNORE + SPIN, {"cpu_seconds": 0.1}, "cpu_time"),
        (FORK_AND.format("while True: pass") + SPIN, {"cpu_seconds": 0.4}, "cpu_time"),
        ("import time; time.sleep(600)", {"cpu_seconds": 0.1, "timeout_s": 0.3}, "wall_time"),
        (IGNORE + "signal.pause()", {"cpu_seconds": 0.1, "timeout_s": 0.3}, "wall_time"),
        (WRITE_ON.format(1), {"output_bytes": 100_000}, "output"),
        (WRITE_ON.format(2), {"output_bytes": 100_000}, "output"),
        (WRITE_ON.format(3), {"output_bytes": 100_000}, "output"),
        (
            FORK_AND.format(HOLD) + "time.sleep(600)",
            {"memory_mb": 160},
            "memory",
        ),
    ],
)
def test_x2_a_limit_ends_the_program_and_all_its_processes(
    box: WarmSandbox, program: str, limits: dict[str, float], ended: str
) -> None:
    before = len(descendants(box.pid))

    found = run(box, program, **limits)

    assert found.ended_by == ended, found
    assert len(found.stdout) <= 1_048_576
    assert len(descendants(box.pid)) == before


def test_x2_processor_time_is_overrun_by_little(box: WarmSandbox) -> None:
    found = run(box, IGNORE + SPIN, cpu_seconds=0.3)

    assert 0.3 <= found.cpu_seconds < 0.8


def test_x2_memory_of_one_process_is_limited(box: WarmSandbox) -> None:
    found = run(box, "bytearray(600 << 20)", memory_mb=256)

    assert found.stderr.endswith(b"MemoryError\n")


@pytest.mark.parametrize("program", [LARGE, MANY, EMPTY_FILES])
def test_x2_files_are_limited_together(box: WarmSandbox, program: str) -> None:
    found = run(box, program, files_mb=8, cpu_seconds=20)

    refused = b"OSError: [Errno 28]" in found.stderr or b"OSError: [Errno 27]" in found.stderr
    assert found.ended_by == "files" or refused, found


def test_x2_processes_are_limited_together(box: WarmSandbox) -> None:
    program = (
        "import os, time\n"
        "for n in range(300):\n"
        "    print(n, flush=True)\n"
        "    os.fork() or time.sleep(600)\n"
    )

    found = run(box, program, processes=16)

    assert found.stderr.endswith(b"BlockingIOError: [Errno 11] Resource temporarily unavailable\n")
    assert len(found.stdout.split()) <= 17


def test_x2_a_daemon_ends_with_its_program(box: WarmSandbox) -> None:
    before = len(descendants(box.pid))

    found = run(box, DAEMON)

    assert (found.ended_by, found.stdout) == ("exit", b"left\n")
    assert len(descendants(box.pid)) == before


# ---------------------------------------------------------------- many runs (X5)


def test_x5_runs_leave_nothing_to_each_other(box: WarmSandbox) -> None:
    program = "import os\nprint(sorted(os.listdir('.')), input())\nopen('left', 'w').write('x')"
    run(box, program, b"first")
    ours, keeper = psutil.Process(), keeper_of(box)
    before = (ours.num_fds(), keeper.num_fds(), len(descendants(box.pid)))

    for number in range(60):
        assert run(box, program, b"%d" % number).stdout == b"['main.py'] %d\n" % number

    assert (ours.num_fds(), keeper.num_fds(), len(descendants(box.pid))) == before


@pytest.mark.parametrize("num_runs", [8, pytest.param(63, marks=pytest.mark.gauntlet)])
@pytest.mark.parametrize("rung", RUNGS)
def test_x5_sandboxes_side_by_side_do_not_mix(rung: str, num_runs: int, temporary: Path) -> None:
    found: dict[tuple[int, int], bytes] = {}

    def work(slot: int) -> None:
        box = open_warm(rung, slot)
        for number in range(num_runs):
            program = f"import os\nprint(os.listdir('.'), {slot}, {number})"
            found[slot, number] = run(box, program).stdout
        box.stop()

    try:
        open_warm(rung).stop()
    except IsolationFailed as error:
        pytest.skip(str(error))
    threads = [threading.Thread(target=work, args=(slot,)) for slot in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == {
        (s, n): b"['main.py'] %d %d\n" % (s, n) for s in range(8) for n in range(num_runs)
    }
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("locked", [False, True])
def test_x5_folders_nested_by_the_thousand_are_removed(box: WarmSandbox, locked: bool) -> None:
    program = (
        "import os\n"
        "for n in range(2100):\n"  # a path longer than the kernel takes
        "    os.mkdir('d'); open('f', 'w').close(); os.chdir('d')\n"
        f"if {locked}: os.chmod('..', 0); os.chmod(os.environ['HOME'], 0)\n"
    )

    made = run(box, program, files_mb=64)
    after = run(box, "import os; print(os.listdir('.'))")

    assert (made.ended_by, made.exit_code) == ("exit", 0), made.stderr
    assert after.stdout == b"['main.py']\n"


def kill_at_work(box: WarmSandbox, keeper: psutil.Process, at_rest: int) -> None:
    while len(descendants(box.pid)) <= at_rest:
        time.sleep(0.01)
    keeper.kill()


def test_a_keeper_that_was_killed_fails_once_and_comes_back(box: WarmSandbox) -> None:
    at_rest = len(descendants(box.pid))
    killing = (box, keeper_of(box), at_rest)
    threading.Thread(target=kill_at_work, args=killing, daemon=True).start()

    with pytest.raises(IsolationFailed, match="did not answer"):
        run(box, "import time; time.sleep(60)", timeout_s=30)

    assert run(box, "print(1)").stdout == b"1\n"
