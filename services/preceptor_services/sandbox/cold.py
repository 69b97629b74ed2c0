"""What sandboxes without a keeper share: each run starts from nothing, by a shell's command.

The command's result (descriptor 3) goes to a file of its private folder, which is read afterwards.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from preceptor_services.sandbox.command import PYTHON, Command, CommandLimits, EndedBy, Execution
from preceptor_services.sandbox.expressions import outcome
from preceptor_services.sandbox.isolation import Ended, Limits, Outcome, ProgramRun

STDIN: Final = ".preceptor-stdin"
RESULT: Final = ".preceptor-result"
_EVALUATE: Final = Path(__file__).with_name("inside") / "evaluate.py"
_ENDS: Final[Mapping[EndedBy, Ended]] = {
    "cpu_time": "timeout",
    "wall_time": "timeout",
    "output": "output_limit",
}


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
    if status in (-24, 128 + 24):  # SIGXCPU
        return "cpu_time"
    if status in (-25, 128 + 25):  # SIGXFSZ
        return "files"
    return "signal" if status < 0 else "exit"


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
    how: Ended = _ENDS.get(found.ended_by) or "crashed"
    if found.exit_code == 0:
        how = "finished"
    return outcome(how, found.result, num_cases)
