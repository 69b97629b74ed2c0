"""Sandboxes of the tests: real ones with one fault."""

from __future__ import annotations

from pydantic import JsonValue

from preceptor_services.sandbox.command import Command, CommandLimits, Execution
from preceptor_services.sandbox.isolation import Limits, Outcome, ProgramRun
from preceptor_services.sandbox.ladder import open_sandbox


class Wrapped:
    """A real sandbox, whose methods a test replaces."""

    def __init__(self, slot: int) -> None:
        self._inner = open_sandbox(slot=slot)

    def start(self) -> None:
        self._inner.start()

    def describe(self) -> dict[str, JsonValue]:
        return self._inner.describe()

    def run(self, attempt: ProgramRun, limits: Limits) -> Outcome:
        return self._inner.run(attempt, limits)

    def execute(self, command: Command, limits: CommandLimits | None = None) -> Execution:
        return self._inner.execute(command, limits)

    def stop(self) -> None:
        self._inner.stop()
