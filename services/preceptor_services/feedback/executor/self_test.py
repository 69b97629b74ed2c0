"""Programs of known outcome, which a sandbox runs before it judges anything."""

from __future__ import annotations

import time
from typing import Final

from preceptor_clients.contract.programs import ProgramCase, ProgramTask
from preceptor_services.feedback.executor.config import ExecutorConfig
from preceptor_services.feedback.executor.failures import CaseEnd
from preceptor_services.feedback.executor.programs import ProgramJudge
from preceptor_services.sandbox.command import PYTHON, Command, Sandbox
from preceptor_services.sandbox.isolation import CaseResult, Isolation, Limits, Outcome, ProgramRun

_PATIENCE_S: Final = 120.0
_TASKS: Final = (
    ProgramTask(mode="stdin", shown=(ProgramCase(input="1 2", expected="3"),)),
    ProgramTask(mode="function", entry="f", shown=(ProgramCase(input=[1, 2], expected=3),)),
)
_PROGRAMS: Final[tuple[tuple[int, str, CaseEnd], ...]] = (
    (0, "print(sum(map(int, input().split())))", "passed"),
    (0, "print(12)", "wrong"),
    (0, "raise SystemError", "error"),
    (1, "def f(a, b): return a + b", "passed"),
    (1, "def f(a, b): return a", "wrong"),
)


def self_test(box: Sandbox, config: ExecutorConfig) -> str | None:
    """The first result that is not as it should be, in words."""
    return _expressions(box, config.limits) or _programs(box, config) or _languages(box, config)


def _expressions(box: Isolation, limits: Limits) -> str | None:
    """A correct, a failing and an endless one."""
    quick = Limits(
        cpu_seconds=min(0.2, limits.cpu_seconds),
        timeout_s=limits.timeout_s,
        memory_mb=limits.memory_mb,
        output_bytes=limits.output_bytes,
    )
    sort = Outcome(results=(CaseResult(value=[1, 3]),), ended="finished")
    bad = CaseResult(error="IndexError: list index out of range")
    wrong = Outcome(results=(bad,), ended="finished")
    endless = Outcome(results=(), ended="timeout")
    for program, expected in (
        ("sorted(x)", sort),
        ("x[2]", wrong),
        ("sum(0 for _ in iter(int,1))", endless),
    ):
        found = box.run(ProgramRun(program=program, entry="x", inputs=([3, 1],)), quick)
        if found != expected:
            return f"self-test: {program} gave {found}, expected {expected}"
    return None


def _programs(box: Sandbox, config: ExecutorConfig) -> str | None:
    for task, program, expected in _PROGRAMS:
        judge = ProgramJudge(
            task=_TASKS[task],
            box=box,
            limits=config.case_limits(),
            compile_limits=config.compile_limits,
            languages={},
            deadline=time.monotonic() + _PATIENCE_S,
        )
        [report] = judge.judge(program, cut_off=False).reports
        if report.end != expected:
            said = report.error or report.got
            return f"self-test: {program} gave {report.end} ({said}), expected {expected}"
    return None


def _languages(box: Sandbox, config: ExecutorConfig) -> str | None:
    """A compiler that is not there would look like a mistake of every program."""
    for name, language in config.read_languages().items():
        program = (language.compile or language.run)[0]
        in_folder = "/" in program and not program.startswith("/")
        # The interpreter of the sandbox may have another name; the folder has no source yet.
        if program == PYTHON or in_folder:
            continue
        found = box.execute(Command(argv=("/bin/sh", "-c", 'command -v "$0"', program)))
        if found.ended_by != "exit" or found.exit_code != 0:
            return f"languages.{name}: the sandbox does not see the program {program}"
    return None
