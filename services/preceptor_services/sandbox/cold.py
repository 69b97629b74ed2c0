"""What sandboxes without a keeper share: each run starts from nothing, by a shell's command.

The command's result (descriptor 3) goes to a file of its private folder, which is read afterwards.
"""

from __future__ import annotations

import json
import math
import shlex
import signal
from dataclasses import replace
from pathlib import Path
from typing import Final

from preceptor_services.sandbox.command import (
    PYTHON,
    Command,
    CommandLimits,
    EndedBy,
    Execution,
    ended_by_signal,
)
from preceptor_services.sandbox.expressions import end_of, outcome
from preceptor_services.sandbox.isolation import Limits, Outcome, ProgramRun

STDIN: Final = ".preceptor-stdin"
RESULT: Final = ".preceptor-result"
_EVALUATE: Final = Path(__file__).with_name("inside") / "evaluate.py"


def script(command: Command, limits: CommandLimits, python: str) -> str:
    """A shell's script, in the private folder: limits, then the command in the shell's place."""
    words = [python if command.argv[0] == PYTHON else command.argv[0], *command.argv[1:]]
    memory = limits.memory_mb << 10
    own_memory = f"ulimit -v {memory}\n" if command.argv[0] == PYTHON else ""
    return (
        # A program may ignore the signal of a soft limit, so there is none below the hard one.
        f"ulimit -c 0\nulimit -t {_whole_seconds(limits)}\n{own_memory}"
        f"ulimit -f {limits.files_mb << 10}\nexport PYTHONHASHSEED=0 LC_ALL=C.UTF-8\n"
        f"exec {shlex.join(words)} <{STDIN} 3>{RESULT}\n"
    )


def ended(status: int, wall_s: float, limits: CommandLimits, *, timed_out: bool) -> EndedBy:
    """What ended a command.

    Args:
        status: Its exit status, as a shell has it; negative for a signal.
        wall_s: How long it ran. The kernel kills at the limit on processor time without saying so,
            and no process of one thread can reach it before.
        limits: Its limits.
        timed_out: Whether its time was over.
    """
    if timed_out:
        return "wall_time"
    number = -status if status < 0 else status - 128
    if number == signal.SIGKILL and wall_s >= _whole_seconds(limits):
        return "cpu_time"
    told = ended_by_signal(number)
    return "exit" if told == "signal" and status >= 0 else told


def _whole_seconds(limits: CommandLimits) -> int:
    """The limit on processor time, of which the kernel counts whole seconds."""
    return math.ceil(limits.cpu_seconds)


def cut(found: Execution, limits: CommandLimits) -> Execution:
    """With outputs no longer than their limit; longer ones have ended the command."""
    size = limits.output_bytes
    if max(len(found.stdout), len(found.stderr), len(found.result)) <= size:
        return found
    return replace(
        found,
        ended_by="output",
        exit_code=None,
        stdout=found.stdout[:size],
        stderr=found.stderr[:size],
        result=found.result[:size],
    )


def expression_command(attempt: ProgramRun) -> Command:
    """The command that evaluates an expression."""
    request = {
        "program": attempt.program,
        "entry": attempt.entry,
        "inputs": [json.dumps(value) for value in attempt.inputs],
    }
    return Command(files={"main.py": _EVALUATE.read_bytes()}, stdin=json.dumps(request).encode())


def expression_limits(limits: Limits) -> CommandLimits:
    """The limits of an expression, as those of a command."""
    return CommandLimits(
        cpu_seconds=limits.cpu_seconds,
        timeout_s=limits.timeout_s,
        memory_mb=limits.memory_mb,
        output_bytes=limits.output_bytes,
        processes=1,
        files_mb=1,
    )


def expression_outcome(found: Execution, num_cases: int) -> Outcome:
    """The outcome of an expression that was evaluated by a command."""
    return outcome(end_of(found.ended_by, found.exit_code), found.result, num_cases)
