"""The result of a check: passed, failed or skipped, with what was expected and how to fix it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final, Literal

State = Literal["passed", "failed", "skipped"]
_MARKS: Final[dict[State, str]] = {"passed": "ok  ", "failed": "FAIL", "skipped": "skip"}


class Failed(Exception):
    """A check's finding against the expert."""

    def __init__(self, *, expected: str, found: str, mend: str) -> None:
        super().__init__(found)
        self.expected, self.found, self.mend = expected, found, mend


class Skipped(Exception):
    """A check does not apply, or lacks what it needs; the message says what."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One check's outcome."""

    check: str
    claim: str
    """What the check is about, in one line."""
    state: State
    detail: str = ""
    """What was seen, or why the check was skipped."""
    expected: str = ""
    found: str = ""
    mend: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All verdicts on one service."""

    url: str
    service: str
    version: str
    verdicts: tuple[Verdict, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failed()

    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return tuple(v.check for v in self.verdicts if v.state == "failed")

    def as_text(self) -> str:
        """Readable text: one line per check, and three more for a failed one."""
        lines = [f"{self.service} {self.version} at {self.url}".strip(), ""]
        for verdict in self.verdicts:
            lines += _lines(verdict)
        counts = {s: sum(v.state == s for v in self.verdicts) for s in _MARKS}
        outcome = "conforms to the contract" if self.ok else "does not conform to the contract"
        lines += ["", f"{counts['passed']} passed, {counts['failed']} failed, "
                  f"{counts['skipped']} skipped: {self.url} {outcome}"]  # fmt: skip
        return "\n".join(lines)

    def as_json(self) -> str:
        """For programs."""
        return json.dumps(asdict(self) | {"ok": self.ok}, indent=2)


def _lines(verdict: Verdict) -> list[str]:
    head = f"{_MARKS[verdict.state]} {verdict.check:<14} {verdict.claim}"
    if verdict.state != "failed":
        return [f"{head}: {verdict.detail}" if verdict.detail else head]
    return [
        head,
        f"       expected: {verdict.expected}",
        f"       found:    {verdict.found}",
        f"       fix:      {verdict.mend}",
    ]
