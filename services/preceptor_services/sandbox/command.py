"""The interface between whoever wants a program run and the sandbox that it runs in.

A `Sandbox` runs one command with files, standard input and limits, and says how it ended. It never
gets an expected output. A command's private folder and every process of it are gone when `execute`
returns. Each rung of the ladder is one class of this protocol (`ladder.py` chooses one).

    with open_sandbox("auto", slot=0) as box:
        found = box.execute(Command(files={"main.py": "print(int(input()) + 1)"}, stdin=b"1"))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final, Literal, Protocol

from preceptor_services.sandbox.isolation import Isolation

EndedBy = Literal["exit", "signal", "cpu_time", "wall_time", "memory", "output", "files"]
"""What ended a command: itself, a signal of the kernel, or the limit that it reached."""
_LIMIT_SIGNALS: Final[dict[int, EndedBy]] = {24: "cpu_time", 25: "files"}  # SIGXCPU, SIGXFSZ
PYTHON: Final = "python"
"""As `argv[0]`: the sandbox's own interpreter, which is warm where the rung can keep one."""
RESULT_FD: Final = 3
"""A pipe for results, apart from what the program prints. The program can write anything to it."""


@dataclass(frozen=True, kw_only=True)
class CommandLimits:
    """Limits of one command, for all its processes together unless a field says otherwise."""

    cpu_seconds: float = 6.0
    """Processor time."""
    timeout_s: float = 30.0
    """Wall-clock time. Only a program that sleeps should reach it."""
    memory_mb: int = 512
    """Memory in use; also what one process may allocate."""
    processes: int = 32
    """Processes and threads at one time."""
    output_bytes: int = 1_048_576
    """Of standard output; of standard error; of results; each."""
    files_mb: int = 64
    """Files that the command writes, together."""

    def __post_init__(self) -> None:
        for name in ("cpu_seconds", "timeout_s", "processes", "output_bytes", "files_mb"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: {getattr(self, name)} is not above 0")
        if self.timeout_s <= self.cpu_seconds:
            raise ValueError(
                f"timeout_s: {self.timeout_s} is not above cpu_seconds ({self.cpu_seconds})"
            )
        if self.memory_mb < 64:
            raise ValueError(f"memory_mb: {self.memory_mb} is below 64, which an interpreter needs")


@dataclass(frozen=True, kw_only=True)
class Command:
    """A program to run in a private folder, which is its working directory."""

    argv: tuple[str, ...] = (PYTHON, "main.py")
    files: Mapping[str, str | bytes] = field(default_factory=dict[str, str | bytes])
    """Name in the private folder and contents; each file is readable and executable."""
    stdin: bytes = b""
    keep: tuple[str, ...] = ()
    """Files of the private folder to give back, such as a compiler's output. Links are not
    followed, and a file above the limit `files_mb` is not given back."""

    def __post_init__(self) -> None:
        if not self.argv or "\0" in "".join(self.argv):
            raise ValueError(f"argv: {self.argv} is empty or contains NUL")
        for name in (*self.files, *self.keep):
            parts = PurePosixPath(name).parts
            if not parts or parts[0] == "/" or ".." in parts or "\0" in name:
                raise ValueError(f"files: {name!r} does not name a file in the private folder")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a command ended. Its outputs are cut at their limit, and untrusted."""

    ended_by: EndedBy
    exit_code: int | None = None
    """Where it ended itself."""
    signal: int | None = None
    """Where a signal ended it that no limit of ours had sent."""
    stdout: bytes = b""
    stderr: bytes = b""
    result: bytes = b""
    """What was written to descriptor `RESULT_FD`."""
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    """Those of `Command.keep` that exist."""
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    peak_memory_mb: float = 0.0
    """Largest memory of one process; 0 where the rung does not report it."""
    group_memory_mb: float | None = None
    """Largest memory of all processes together, with what they read of files; None where no control
    group reports it."""
    rung: str
    """Name of the rung that it ran under."""


def ended_by_signal(number: int) -> EndedBy:
    """The limit that the kernel tells by a signal, or `signal`."""
    return _LIMIT_SIGNALS.get(number, "signal")


class Sandbox(Isolation, Protocol):
    """A rung of the ladder: runs commands, and expressions as every `Isolation` does.

    One sandbox runs one command at a time; open one for each worker.
    """

    def execute(self, command: Command, limits: CommandLimits | None = None) -> Execution:
        """Runs one command and removes everything that it left.

        Raises:
            IsolationFailed: The sandbox failed, not the program.
        """
        ...
