"""Options of an executor."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Final

from preceptor_clients.contract.sections import nearest
from preceptor_services.feedback.executor.languages import Language, read_languages
from preceptor_services.sandbox.command import CommandLimits
from preceptor_services.sandbox.isolation import MAX_SLOTS, Limits
from preceptor_services.sandbox.rungs.rung import RungOptions

WALL_FACTOR: Final = 3
WALL_SECONDS: Final = 10
"""Wall-clock time of a case is that many times its processor time and these seconds: only a
program that sleeps should reach it, not one on a busy machine."""


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    """Options of an executor."""

    name: str = "executor"
    """The source's name in its answers."""
    cpu_seconds: float = Limits.cpu_seconds
    """Processor time of one expression, all its cases together."""
    timeout_s: float = Limits.timeout_s
    """Wall-clock time of one expression; generous, because the processor time decides."""
    memory_mb: int = Limits.memory_mb
    """Address space of one expression."""
    output_bytes: int = Limits.output_bytes
    """Size of all values of one expression."""
    rung: str = "auto"
    """Rung of isolation; `auto` is the strongest that the machine offers."""
    rung_options: dict[str, str] = field(default_factory=dict[str, str])
    """Options of the rung, such as `python`, the interpreter whose packages programs may import."""
    case_cpu_seconds: float = 10.0
    """Processor time of one case of a program: of a task without a limit of its own, and the
    highest that a task may set."""
    case_memory_mb: int = 1024
    """Memory of one case of a program, likewise."""
    case_output_bytes: int = 4 << 20
    """Output of one case of a program."""
    compile_cpu_seconds: float = 60.0
    """Processor time of a compiler."""
    languages: dict[str, Any] = field(default_factory=dict[str, Any])
    """Languages of programs beside Python: a table `file`, `run`, `compile` and `keep` for each."""
    workers: int = 2
    """Concurrent attempts."""
    max_batch: int = 256
    """Queries in one call."""

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= MAX_SLOTS:
            raise ValueError(f"workers: {self.workers} is outside 1..{MAX_SLOTS}")
        if self.max_batch < 1:
            raise ValueError(f"max_batch: {self.max_batch} is below 1")
        _ = self.limits, self.case_limits(), self.compile_limits
        _ = self.read_languages(), self.read_rung_options()

    @property
    def limits(self) -> Limits:
        """The limits that the sandbox enforces on an expression."""
        return Limits(
            cpu_seconds=self.cpu_seconds,
            timeout_s=self.timeout_s,
            memory_mb=self.memory_mb,
            output_bytes=self.output_bytes,
        )

    def case_limits(
        self, cpu_seconds: float | None = None, memory_mb: int | None = None
    ) -> CommandLimits:
        """The limits of one case of a program, with those that its task sets."""
        return self._command_limits(
            self.case_cpu_seconds if cpu_seconds is None else cpu_seconds,
            self.case_memory_mb if memory_mb is None else memory_mb,
        )

    @property
    def compile_limits(self) -> CommandLimits:
        """The limits of a compiler."""
        return self._command_limits(self.compile_cpu_seconds, max(1024, self.case_memory_mb))

    def read_languages(self) -> dict[str, Language]:
        """The languages beside Python."""
        return read_languages(self.languages)

    def read_rung_options(self) -> RungOptions:
        """The options of the rung."""
        known = [one.name for one in fields(RungOptions)]
        for name in self.rung_options:
            if name not in known:
                raise ValueError(f"rung_options.{name}: is unknown; {nearest(name, known)}")
        return RungOptions(**self.rung_options)

    def _command_limits(self, cpu_seconds: float, memory_mb: int) -> CommandLimits:
        return CommandLimits(
            cpu_seconds=cpu_seconds,
            timeout_s=WALL_FACTOR * cpu_seconds + WALL_SECONDS,
            memory_mb=memory_mb,
            output_bytes=self.case_output_bytes,
        )
