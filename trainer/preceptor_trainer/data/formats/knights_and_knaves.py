"""Puzzles of knights, who tell the truth, and knaves, who lie.

    {"quiz": "...", "names": ["Ella", "Bo"], "solution": [true, false],
     "solution_text_format": "(1) Ella is a knight\\n(2) Bo is a knave", "knight_knave": {...}}
    {"question": "...", "metadata": {"names": [...], "solution": [...]}}

The first form is that of the data set `K-and-K/knights-and-knaves`, the second that of
reasoning-gym. Judged by the verifier `knights_and_knaves`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from preceptor_trainer.data.formats.columns import (
    Columns,
    chat,
    each_row,
    first_of,
    own_id,
    table_of,
    text_of,
)
from preceptor_trainer.data.formats.named import Part
from preceptor_trainer.data.reading import ReadRow

SYSTEM: Final = (
    "Reason about the statements first. Then write who is what between <answer> and </answer>, one "
    "line for each person, as in: (1) Ella is a knight"
)


@dataclass(frozen=True, kw_only=True)
class Format:
    """Options of the format."""

    system: str = SYSTEM
    """System turn, which asks for the answer's form; an empty text leaves it out."""
    people: tuple[int, ...] = ()
    """Numbers of people whose puzzles are taken; all where empty."""

    def __call__(self, rows: Sequence[ReadRow], part: Part) -> list[ReadRow]:
        """The puzzles with so many people."""
        return each_row(rows, self._columns, f"no puzzle has {self.people} people")

    def _columns(self, columns: Columns) -> dict[str, Any] | None:
        inside = {**columns, **table_of(columns, "metadata")}
        names, solution = inside.get("names"), first_of(inside, ("solution", "answer"))
        if not isinstance(names, list) or not names:
            raise ValueError("names: is no list of names; is this a file of knights and knaves?")
        if self.people and len(cast("list[Any]", names)) not in self.people:
            return None
        lines = first_of(columns, ("solution_text_format",))
        if lines is None and not isinstance(solution, list):
            raise ValueError("solution: is missing")
        return {
            **own_id(columns, ("id",)),
            "messages": chat(self.system or None, text_of(columns, ("quiz", "question", "prompt"))),
            "names": names,
            "answer": solution if lines is None else lines,
            **({"knight_knave": columns["knight_knave"]} if columns.get("knight_knave") else {}),
        }
