"""The seam between grading an attempt and the box that it runs in.

An `Isolation` runs one program on some inputs and says what came back and how it ended. It never
sees what was expected: verdicts are made outside, from the values. A stronger box is one new file
with a class of this shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import JsonValue

Ended = Literal["finished", "timeout", "output_limit", "crashed"]


class IsolationFailed(Exception):
    """The box itself failed, so nothing is known about the attempt."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one attempt, all its cases together, may use."""

    cpu_seconds: float = 1.0
    """Processor time; it decides, so that a busy machine gives the same verdict."""
    timeout_s: float = 15.0
    """Time by the clock; only a program that sleeps should meet it."""
    memory_mb: int = 256
    """Address space, the interpreter's own 30 MB included."""
    output_bytes: int = 65_536
    """Size of the values that come back, as JSON."""

    def __post_init__(self) -> None:
        for field in ("cpu_seconds", "timeout_s", "memory_mb", "output_bytes"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field}: {getattr(self, field)} is not above 0")
        if self.timeout_s <= self.cpu_seconds:
            raise ValueError(f"timeout_s: {self.timeout_s} is not above cpu_seconds")
        if self.memory_mb < 64:
            raise ValueError(f"memory_mb: {self.memory_mb} is below the 64 of an interpreter")


@dataclass(frozen=True, kw_only=True)
class ProgramRun:
    """A Python expression, and the values that `entry` is bound to, one case each."""

    program: str
    entry: str
    inputs: tuple[JsonValue, ...]


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """How one case ended by itself: with a value, something that is no JSON value, or an error."""

    value: JsonValue = None
    other: str | None = None
    """`repr` of a value that JSON has no exact form for, such as a tuple or a set."""
    error: str | None = None
    """`Class: message` of the exception."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came back: results of the first cases, in order; all of them where it finished."""

    results: tuple[CaseResult, ...]
    ended: Ended
    program_error: str | None = None
    """Why the program could not be compiled."""


class Isolation(Protocol):
    """A box for programs that nobody trusts."""

    def start(self) -> None:
        """Makes the box ready.

        Raises:
            IsolationFailed: It cannot be had on this machine.
        """
        ...

    def describe(self) -> dict[str, JsonValue]:
        """What protects the machine, for the record; `level` names it."""
        ...

    def run(self, attempt: ProgramRun, limits: Limits) -> Outcome:
        """Runs one attempt; nothing of it is left afterwards.

        Raises:
            IsolationFailed: The box failed, not the program.
        """
        ...

    def stop(self) -> None:
        """Ends the box."""
        ...
