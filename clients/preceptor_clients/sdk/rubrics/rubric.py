"""A rubric: criteria that a judge answers with yes or no, each with a weight.

    Rubric(criteria=(Criterion(name="right", question="Is the final answer right?", weight=2.0),))

The score is the weight of the criteria that are met, divided by the weight of all. One verdict per
criterion with its reason first is what judges of the field agree on; a number for the whole
response is not asked for, because models spread such numbers differently.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, cast

FORMAT_VERSION: Final = "1"
"""Increased whenever the same criteria are asked or read in another way."""
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """One question about a response."""

    name: str
    """Its name in verdicts: a letter, then letters, digits, `_` and `-`."""
    question: str
    """Answered with yes where the criterion is met."""
    weight: float = 1.0
    """Its share of the score, before scaling."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"name: {self.name!r} is not a letter, then up to 39 letters, digits, `_` or `-`"
            )
        if not self.question.strip():
            raise ValueError(f"question: the criterion {self.name!r} has none")
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"weight: {self.weight} of {self.name!r} is not above 0")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The judge's answer to one criterion."""

    criterion: str
    met: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Rubric:
    """All criteria, and what the judge sees beside prompt and response."""

    criteria: tuple[Criterion, ...]
    """At least one, each with a name of its own."""
    columns: tuple[str, ...] = ()
    """Columns of the row that the judge reads, such as a right answer."""

    def __post_init__(self) -> None:
        if not self.criteria:
            raise ValueError("criteria: is empty; name at least one")
        names = [criterion.name for criterion in self.criteria]
        if len(set(names)) < len(names):
            raise ValueError(f"criteria: two have one name: {', '.join(names)}")

    @property
    def version(self) -> str:
        """Changes with every word of the criteria, their weights, and the code that asks."""
        text = json.dumps([FORMAT_VERSION, asdict(self)])
        return f"{FORMAT_VERSION}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def score(self, verdicts: Sequence[Verdict]) -> float:
        """The weight of what is met, from 0 to 1; there is one verdict per criterion."""
        met = {verdict.criterion: verdict.met for verdict in verdicts}
        total = sum(criterion.weight for criterion in self.criteria)
        return sum(c.weight for c in self.criteria if met[c.name]) / total


def remarks(verdicts: Sequence[Verdict]) -> str | None:
    """What was wrong, for those who read the feedback; None where every criterion is met."""
    lines = [f"{v.criterion}: {v.reason or 'not met'}" for v in verdicts if not v.met]
    return "\n".join(lines) or None


def make_rubric(criteria: Any, columns: Any = ()) -> Rubric:
    """The rubric of a settings file: tables with `name`, `question` and `weight`.

    Raises:
        ValueError: a key is unknown, missing or wrong; the message names it.
    """
    made: list[Criterion] = []
    for place, table in enumerate(_tables(criteria)):
        try:
            made.append(Criterion(**table))
        except TypeError:
            raise ValueError(
                f"criteria[{place}]: has the keys {', '.join(table) or 'none'}; it takes `name`, "
                "`question` and `weight`"
            ) from None
        except ValueError as error:
            raise ValueError(f"criteria[{place}].{error}") from None
    return Rubric(criteria=tuple(made), columns=tuple(columns))


def _tables(criteria: Any) -> list[dict[str, Any]]:
    if isinstance(criteria, (list, tuple)):
        tables = list(cast("Sequence[Any]", criteria))
        if all(isinstance(table, dict) for table in tables):
            return tables
    raise ValueError("criteria: is no list of tables with `name`, `question` and `weight`")
