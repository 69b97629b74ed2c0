"""The interface between grading an attempt and the sandbox that it runs in.

An `Isolation` runs one program on some inputs and returns the values and how it ended. It never
gets the expected values: they are compared outside. A stronger sandbox is one new file with a class
of this protocol.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from pydantic import JsonValue

MAX_SLOTS: Final = 12
"""Sandboxes side by side in one service; where it runs as root, each has a user of its own."""
_FIRST_OF_MANY, _FIRST_OF_FEW = 0x7000_0000, 65_520
Ended = Literal["finished", "timeout", "output_limit", "crashed"]


def user_of(slot: int) -> int:
    """The user id of a sandbox of this process, where it runs as root.

    The kernel counts the processes of a user together, so no two sandboxes of a machine share one.
    In a user namespace with few ids, those between systemd's and `nobody` serve all services.
    """
    if _is_mapped(_FIRST_OF_MANY):
        return _FIRST_OF_MANY + (os.getpid() << 4) + slot
    return _FIRST_OF_FEW + slot


def _is_mapped(uid: int) -> bool:
    try:
        ranges = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    except OSError:
        return False
    return any(int(first) <= uid + (1 << 27) <= int(first) + int(n) for first, _, n in ranges)


class IsolationFailed(Exception):
    """The sandbox failed, so nothing is known about the attempt."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one attempt, for all its cases together."""

    cpu_seconds: float = 1.0
    """Processor time. This limit decides, so that the verdict does not depend on the load."""
    timeout_s: float = 15.0
    """Wall-clock time. Only a program that sleeps should reach it."""
    memory_mb: int = 256
    """Address space, the interpreter's own 30 MB included."""
    output_bytes: int = 65_536
    """Size of the returned values, as JSON."""

    def __post_init__(self) -> None:
        for field in ("cpu_seconds", "timeout_s", "memory_mb", "output_bytes"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field}: {getattr(self, field)} is not above 0")
        if self.timeout_s <= self.cpu_seconds:
            raise ValueError(
                f"timeout_s: {self.timeout_s} is not above cpu_seconds ({self.cpu_seconds})"
            )
        if self.memory_mb < 64:
            raise ValueError(
                f"memory_mb: {self.memory_mb} is below 64, which the interpreter needs"
            )


@dataclass(frozen=True, kw_only=True)
class ProgramRun:
    """A Python expression, and the values that `entry` is bound to, one per case."""

    program: str
    entry: str
    inputs: tuple[JsonValue, ...]


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """How one case ended: with a JSON value, with another value, or with an error."""

    value: JsonValue = None
    other: str | None = None
    """`repr` of a value that JSON cannot represent exactly, such as a tuple or a set."""
    error: str | None = None
    """`Class: message` of the exception."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The results of the first cases, in order; of all cases where the program finished."""

    results: tuple[CaseResult, ...]
    ended: Ended
    program_error: str | None = None
    """Why the program could not be compiled."""


class Isolation(Protocol):
    """A sandbox for untrusted programs."""

    def start(self) -> None:
        """Starts the sandbox.

        Raises:
            IsolationFailed: It is not available on this machine.
        """
        ...

    def describe(self) -> dict[str, JsonValue]:
        """The protections in force, for the record; `level` names them."""
        ...

    def run(self, attempt: ProgramRun, limits: Limits) -> Outcome:
        """Runs one attempt and removes everything that it left.

        Raises:
            IsolationFailed: The sandbox failed, not the program.
        """
        ...

    def stop(self) -> None:
        """Stops the sandbox."""
        ...
