"""What sandboxes without a keeper share: each run starts from nothing, by a shell's command.

The command's result (descriptor 3) goes to a file of its private folder, which is read afterwards.
"""

from __future__ import annotations

import json
import math
import shlex
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
    cpu, memory = math.ceil(limits.cpu_seconds), limits.memory_mb << 10
    own_memory = f"ulimit -v {memory}\n" if command.argv[0] == PYTHON else ""
    return (
        f"ulimit -c 0\nulimit -S -t {cpu}\nulimit -H -t {cpu + 1}\n{own_memory}"
        f"ulimit -f {limits.files_mb << 10}\nexport PYTHONHASHSEED=0 LC_ALL=C.UTF-8\n"
        f"exec {shlex.join(words)} <{STDIN} 3>{RESULT}\n"
    )


def ended(status: int, *, timed_out: bool, over: bool) -> EndedBy:
    """What ended a command, by its exit status; negative for a signal."""
    if timed_out:
        return "wall_time"
    if over:
        return "output"
    told = ended_by_signal(-status if status < 0 else status - 128)
    return "exit" if told == "signal" and status >= 0 else told


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
