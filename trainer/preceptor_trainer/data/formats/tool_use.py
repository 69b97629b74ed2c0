"""Requests that are answered by calls of tools: ToolAlpaca, as it is or as the papers' records.

    {"Name": "...", "Description": "...", "NLDocumentation": "...", "Instructions": ["...", ...],
     "Golden_Answers": [[{"Action": "...", "Action_Input": "{...}"}], ...]}
    {"prompt": "...", "golden_answer": [{"Action": "...", "Action_Input": "{...}"}], ...}

In the first form one row is an interface with many requests, and becomes as many rows. Judged by
the verifier `tool_calls`: every tool as often as wanted, and the arguments of all calls together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from preceptor_trainer.data.formats.columns import (
    Columns,
    chat,
    each_row,
    first_of,
    own_id,
    text_of,
)
from preceptor_trainer.data.formats.named import Part
from preceptor_trainer.data.reading import ReadRow

SYSTEM: Final = (
    "Answer the request with calls of the tools below. Write each call as two lines: `Action:` "
    "with the name of the tool, and `Action Input:` with its arguments as a JSON object."
)
_REQUESTS: Final = "Instructions"
_GOLDEN: Final = ("golden_answer", "Golden_Answer", "answer")


@dataclass(frozen=True, kw_only=True)
class Format:
    """Options of the format."""

    system: str | None = SYSTEM
    """System turn of requests that have none of their own; an empty text leaves it out."""

    def __call__(self, rows: Sequence[ReadRow], part: Part) -> list[ReadRow]:
        """One row for each request that has an answer."""
        single = [one for row in rows for one in _requests(row)]
        return each_row(single, self._columns, "no request has an answer")

    def _columns(self, columns: Columns) -> dict[str, Any] | None:
        wanted = first_of(columns, _GOLDEN)
        if wanted is None:
            return None
        if not isinstance(wanted, (str, list)):
            raise ValueError(f"golden_answer: is a {type(wanted).__name__}, not a list of calls")
        system = columns.get("system") or self.system
        return {
            **own_id(columns, ("id",)),
            "messages": chat(system, text_of(columns, ("prompt", "instruction"))),
            "answer": wanted,
        }


def _requests(row: ReadRow) -> Iterator[ReadRow]:
    """The requests of one interface, or the row itself."""
    columns = row.columns
    asked = columns.get(_REQUESTS)
    if not isinstance(asked, list):
        yield row
        return
    listed, answers = cast("list[Any]", asked), columns.get("Golden_Answers")
    golden = cast("list[Any]", answers) if isinstance(answers, list) else []
    if len(golden) != len(listed):
        raise ValueError(
            f"{row.where}: Golden_Answers: has {len(golden)} answers to {len(listed)} requests"
        )
    try:
        about = text_of(columns, ("NLDocumentation", "Documentation", "Description"))
    except ValueError as error:
        raise ValueError(f"{row.where}: {error}") from None
    for text, calls in zip(listed, golden, strict=True):
        prompt = f"{columns.get('Name', 'Tools')}\n{about}\n\nRequest: {text}"
        yield ReadRow(row.where, {"prompt": prompt, "golden_answer": calls or None})
