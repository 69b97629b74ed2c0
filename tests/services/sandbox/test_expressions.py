"""Claims about expressions in a sandbox, with real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from preceptor_services.sandbox.isolation import (
    CaseResult,
    IsolationFailed,
    Limits,
    Outcome,
    ProgramRun,
)
from preceptor_services.sandbox.warm import WarmSandbox

from .conftest import RunProgram, descendants, open_warm


def values(*found: Any) -> Outcome:
    return Outcome(results=tuple(CaseResult(value=v) for v in found), ended="finished")


def error_of(outcome: Outcome) -> str:
    [result] = outcome.results
    assert result.error is not None, outcome
    return result.error


def test_values_come_back_case_by_case_with_their_types(run_program: RunProgram) -> None:
    assert run_program("sorted(x)", [3, 1], []) == values([1, 3], [])
    [found] = run_program("[True, 1, 1.0, None, 'a', {'k': [2]}]").results
    assert repr(found.value) == "[True, 1, 1.0, None, 'a', {'k': [2]}]"


@pytest.mark.parametrize(
    ("program", "written"),
    [
        ("tuple(x)", "(3, 1)"),
        ("{1}", "{1}"),
        ("{1: 2}", "{1: 2}"),
        ("float('nan')", "nan"),
        ("(v for v in x)", "<generator object <genexpr>>"),
        ("type('L',(list,),{})(x)", "[3, 1]"),
    ],
)
def test_what_json_has_no_exact_form_for_comes_back_as_text(
    run_program: RunProgram, program: str, written: str
) -> None:
    assert run_program(program).results == (CaseResult(other=written),)


def test_a_program_that_does_not_compile_says_why(run_program: RunProgram) -> None:
    outcome = run_program("sorted(x", [1], [2])

    assert outcome.program_error == "SyntaxError: '(' was never closed"
    assert outcome.results == ()


def test_an_exception_is_the_result_of_its_case_alone(run_program: RunProgram) -> None:
    assert run_program("x[0]", [1], [], [2]).results == (
        CaseResult(value=1),
        CaseResult(error="IndexError: list index out of range"),
        CaseResult(value=2),
    )


def test_cases_and_attempts_do_not_see_each_others_changes(run_program: RunProgram) -> None:
    spoil = "(x.append(1), __import__('builtins').__dict__.update(sorted=len))[0] or x"

    run_program(spoil, [1], [1])

    assert run_program("sorted(x)", [2, 1]) == values([1, 2])


def test_chance_is_the_same_in_every_attempt(run_program: RunProgram) -> None:
    draw = "(__import__('random').random(), list(set('abcdefgh')))"

    assert run_program(draw) == run_program(draw)


@pytest.mark.parametrize(
    "program",
    ["sum(0 for _ in iter(int, 1))", "10**10**9", "__import__('re').match('(a*)*b', 'a' * 99)"],
)
def test_x2_endless_work_ends_by_processor_time(run_program: RunProgram, program: str) -> None:
    outcome = run_program(program, [1], [2], cpu_seconds=0.1)

    assert outcome == Outcome(results=(), ended="timeout")


def test_x2_results_before_an_endless_case_are_kept(run_program: RunProgram) -> None:
    program = "1 if x else sum(0 for _ in iter(int, 1))"

    outcome = run_program(program, [1], [], [1], cpu_seconds=0.1)

    assert outcome == Outcome(results=(CaseResult(value=1),), ended="timeout")


def test_x2_disarming_the_timer_leaves_the_kernels_own_limit(run_program: RunProgram) -> None:
    program = (
        "[s := __import__('signal'), s.setitimer(s.ITIMER_PROF, 0),"
        " s.signal(s.SIGXCPU, s.SIG_IGN), sum(0 for _ in iter(int, 1))]"
    )

    assert run_program(program, cpu_seconds=0.1, timeout_s=600).ended == "timeout"


def test_x2_sleeping_ends_by_the_clock(run_program: RunProgram) -> None:
    outcome = run_program("__import__('time').sleep(600)", cpu_seconds=0.1, timeout_s=0.5)

    assert outcome == Outcome(results=(), ended="timeout")


def test_x2_memory_is_limited(run_program: RunProgram) -> None:
    assert error_of(run_program("len(bytearray(600 << 20))")).startswith("MemoryError")


def test_x2_output_is_cut_while_it_is_read(run_program: RunProgram) -> None:
    write_on = "[__import__('os').write(3, b'a' * 65536) for _ in iter(int, 1)]"

    assert run_program("'a' * 10**6").ended == "output_limit"
    assert run_program(write_on, cpu_seconds=5.0).ended == "output_limit"
    assert run_program("print('a' * 10**6)") == values(None)


def test_x2_a_file_cannot_be_written(run_program: RunProgram) -> None:
    assert error_of(run_program("open('/tmp/grown', 'w').write('a')")).startswith("OSError")


@pytest.mark.parametrize(
    "program",
    [
        "[__import__('os').fork() for _ in range(300)]",
        "__import__('_thread').start_new_thread(print, ())",
    ],
)
def test_x2_no_process_can_be_started(
    run_program: RunProgram, box: WarmSandbox, program: str
) -> None:
    before = len(descendants(box.pid))

    error = error_of(run_program(program))

    assert error.startswith(("BlockingIOError", "RuntimeError: can't start new thread"))
    assert len(descendants(box.pid)) == before


@pytest.mark.parametrize(
    "program",
    [
        "__import__('os')._exit(0)",
        "__import__('os').close(3) or x",
        "__import__('os').kill(__import__('os').getpid(), 9)",
        "__import__('os').write(3, b'nonsense\\n') and __import__('os')._exit(0)",
        "__import__('os').write(3, b'[' * 50000 + b'\\n') and __import__('os')._exit(0)",
    ],
)
def test_x3_a_child_that_ends_itself_has_no_result(run_program: RunProgram, program: str) -> None:
    assert run_program(program) == Outcome(results=(), ended="crashed")


def test_a_systemexit_is_an_exception_like_others(run_program: RunProgram) -> None:
    assert error_of(run_program("__import__('sys').exit(0)")) == "SystemExit: 0"


def test_nothing_of_the_service_is_inherited(run_program: RunProgram) -> None:
    [environment] = run_program("dict(__import__('os').environ)").results
    [descriptors] = run_program(
        "[fd for fd in range(64) for p in [__import__('select').poll()]"
        " if not p.register(fd) and p.poll(0)[0][1] != 32]"  # POLLNVAL: no such descriptor
    ).results

    assert environment.value == {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
    assert descriptors.value == [0, 1, 2, 3]


def test_no_listener_of_the_machine_can_be_reached(
    run_program: RunProgram, box: WarmSandbox
) -> None:
    assert box.describe()["network"] == "namespace"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        port = listener.getsockname()[1]
        # Descriptors are closed first, or their limit would refuse the socket before the network.
        outcome = run_program(
            "[__import__('os').close(0), __import__('socket').socket()"
            f".connect(('127.0.0.1', {port}))]"
        )
        with pytest.raises(TimeoutError):
            listener.accept()

    assert error_of(outcome) == "PermissionError: [Errno 1] Operation not permitted"


def test_no_file_and_no_process_of_the_machine_is_in_sight(run_program: RunProgram) -> None:
    for path in ("/etc/passwd", "/proc/1/environ", "/dev/null", __file__):
        outcome = run_program(f"[__import__('os').close(0), open({path!r}).read()]")
        assert error_of(outcome).startswith(("FileNotFoundError", "PermissionError"))
    assert run_program("__import__('os').getpid() < 10**6") == values(True)
    alive = run_program(f"__import__('os').kill({os.getpid()}, 0)")
    assert error_of(alive).startswith(("ProcessLookupError", "PermissionError"))


def test_the_fork_server_cannot_be_killed_from_inside(
    run_program: RunProgram, box: WarmSandbox
) -> None:
    server = box.pid

    run_program("__import__('os').kill(-1, 9)")
    run_program("__import__('os').kill(__import__('os').getppid(), 9)")

    assert box.pid == server
    assert run_program("x") == values([3, 1])


def test_x5_many_attempts_leave_nothing(run_program: RunProgram, box: WarmSandbox) -> None:
    run_program("x")
    ours, server = psutil.Process(), descendants(box.pid)[-1]
    before = (ours.num_fds(), server.num_fds(), len(descendants(box.pid)))

    for number in range(200):
        assert run_program("[v + 1 for v in x]", [number]) == values([number + 1])

    assert (ours.num_fds(), server.num_fds(), len(descendants(box.pid))) == before
    assert server.memory_info().rss < 100 << 20


def test_x5_boxes_side_by_side_do_not_mix_their_answers() -> None:
    boxes = [open_warm("namespaces", slot) for slot in range(4)]
    found: dict[int, list[Outcome]] = {}

    def work(slot: int) -> None:
        found[slot] = [
            boxes[slot].run(ProgramRun(program="x", entry="x", inputs=([slot, i],)), Limits())
            for i in range(25)
        ]

    threads = [threading.Thread(target=work, args=(slot,)) for slot in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for box in boxes:
        box.stop()

    assert found == {slot: [values([slot, i]) for i in range(25)] for slot in range(4)}


def test_stopping_a_box_ends_all_its_processes(tmp_path: Path) -> None:
    box = open_warm("namespaces")
    processes = [psutil.Process(box.pid), *descendants(box.pid)]

    box.stop()

    psutil.wait_procs(processes, timeout=10)
    assert not any(p.is_running() for p in processes)


def test_a_box_whose_server_was_killed_fails_once_and_comes_back() -> None:
    box = open_warm("namespaces")
    attempt = ProgramRun(program="x", entry="x", inputs=(1,))
    timer = threading.Timer(0.3, os.kill, (descendants(box.pid)[-1].pid, signal.SIGKILL))
    timer.start()

    with pytest.raises(IsolationFailed, match="did not answer"):
        box.run(ProgramRun(program="__import__('time').sleep(9)", entry="x", inputs=(1,)), Limits())

    assert box.run(attempt, Limits()) == values(1)
    box.stop()


@pytest.mark.parametrize(
    ("user", "namespaces", "level"),
    [
        ("user", "allow", "namespaces"),
        ("user", "deny", "landlock"),
        ("same", "deny", "landlock"),
    ],
)
def test_every_level_is_named_and_keeps_its_limits(
    as_user_script: Path, user: str, namespaces: str, level: str
) -> None:
    programs = [
        "sorted(x)",
        "sum(0 for _ in iter(int, 1))",
        "len(bytearray(600 << 20))",
        "__import__('os').fork()",
        "__import__('os').kill(__import__('os').getpid(), 9)",
        "__import__('subprocess')",
        "x[::-1]",
    ]

    done = subprocess.run(
        [sys.executable, str(as_user_script), user, namespaces, "auto", *programs],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["isolation"]["level"] == level
    network = {"namespaces": "namespace", "landlock": "no sockets"}
    assert report["isolation"]["network"] == network[level]
    ended = [outcome["ended"] for outcome in report["outcomes"]]
    assert ended == ["finished", "timeout", *["finished"] * 2, "crashed", *["finished"] * 2]
    errors = [o["results"][0]["error"] for o in report["outcomes"] if o["results"]]
    assert errors[1].startswith("MemoryError")
    assert errors[2].startswith("BlockingIOError")
    assert errors[3] == "ModuleNotFoundError: No module named 'subprocess'"
    assert report["outcomes"][-1]["results"][0]["value"] == [1, 3]


@pytest.mark.parametrize(
    ("field", "value"),
    [("cpu_seconds", 0), ("timeout_s", 0.5), ("memory_mb", 16), ("output_bytes", -1)],
)
def test_a_limit_that_cannot_be_meant_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        Limits(**{field: value})
