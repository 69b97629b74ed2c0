r"""Problems of mathematics: AIME, AMC, MATH500 and the like, mostly as parquet files.

    {"problem": "...", "answer": "204"}
    {"prompt": [{"role": "user", "content": "..."}], "reward_model": {"ground_truth": "204"}}

Other names of the columns are found too: `question`; `expected_answer`, `solution` with a box. The
second form is that of verl's trainers, whose prompts are taken as they are. Judged by the verifier
`math`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

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

INSTRUCTION: Final = r"Please reason step by step, and put your final answer within \boxed{}."
_PROBLEM: Final = ("problem", "Problem", "question", "Question", "prompt")
_ANSWER: Final = ("answer", "Answer", "expected_answer", "final_answer", "ground_truth",
                  "solution", "Solution")  # fmt: skip
_KEPT: Final = ("subject", "level", "url", "data_source")


@dataclass(frozen=True, kw_only=True)
class Format:
    """Options of the format."""

    instruction: str = INSTRUCTION
    """What is asked below each problem; an empty text leaves it out. Rows with a chat have their
    own."""
    levels: tuple[int, ...] = ()
    """Levels of MATH that are taken; all where empty."""

    def __call__(self, rows: Sequence[ReadRow], part: Part) -> list[ReadRow]:
        """The problems of the chosen levels."""
        return each_row(rows, self._columns, f"no problem is of the levels {self.levels}")

    def _columns(self, columns: Columns) -> dict[str, Any] | None:
        if self.levels and columns.get("level") not in self.levels:
            return None
        asked = columns.get("prompt")
        if not isinstance(asked, list):
            problem = text_of(columns, _PROBLEM).strip()
            asked = chat(None, f"{problem}\n{self.instruction}" if self.instruction else problem)
        kept = {name: columns[name] for name in _KEPT if columns.get(name) is not None}
        return {
            **own_id(columns, ("id", "unique_id")),
            "messages": asked,
            "answer": _answer(columns),
            **kept,
        }


def _answer(columns: Columns) -> str | int | float:
    """The answer, of a worked solution what stands after its last `####`."""
    found = first_of(table_of(columns, "reward_model"), ("ground_truth",))
    found = first_of(columns, _ANSWER) if found is None else found
    if isinstance(found, bool) or not isinstance(found, (str, int, float)):
        raise ValueError(f"answer: is missing or no answer: {found!r}")
    return found.rpartition("####")[2].strip() if isinstance(found, str) else found
