"""One line of `preceptor doctor`: what was checked, how it stands, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from rich.text import Text

Level = Literal["ok", "warn", "fail"]
_COLOURS: Final = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    level: Level
    subject: str
    """What was checked."""
    detail: str
    """How it stands."""
    remedy: str = ""
    """What to do, unless it is ok."""

    def line(self) -> Text:
        """The line of it."""
        line = Text(f"{self.level:<5}", style=_COLOURS[self.level])
        line.append(f"{self.subject}: {self.detail}", style="default")
        if self.remedy and self.level != "ok":
            line.append(f"\n     -> {self.remedy}", style="default")
        return line


def exit_code(findings: Iterable[Finding]) -> int:
    """1 if something fails, else 0; warnings do not count."""
    return int(any(finding.level == "fail" for finding in findings))
