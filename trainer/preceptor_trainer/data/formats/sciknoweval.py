"""Science questions with several choices: SciKnowEval, as it is or as the papers' records.

    {"question": "...", "choices": {"text": [...], "label": ["A", ...]}, "answerKey": "B",
     "type": "mcq-4-choices", "domain": "Chemistry", "details": {"level": "L3", ...}}
    {"system": "...", "prompt": "...", "answer": "B", "kind": "mcq", ...}

The first form is that of `hicai-zju/SciKnowEval` on the hub, the second that of SDPO's data (arXiv
2601.20802), which DistIL uses too. SDPO takes level L3 of one domain at a time, and holds a tenth
out by `eval_share = 0.1` and `eval_seed = 42`. Judged by the verifier `choice`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from preceptor_trainer.data.formats.columns import (
    Columns,
    chat,
    each_row,
    own_id,
    table_of,
    text_of,
)
from preceptor_trainer.data.formats.named import Part
from preceptor_trainer.data.reading import ReadRow

SYSTEM: Final = (
    "Choose the right option. Reason first, between <reasoning> and </reasoning>. Then write the "
    "letter of the right option between <answer> and </answer>, and nothing else there."
)
_KEPT: Final = ("kind", "domain", "description")


@dataclass(frozen=True, kw_only=True)
class Format:
    """Options of the format."""

    prompt: Literal["papers", "short"] = "papers"
    """`papers`: a record's own system turn, or one that asks for `<reasoning>` and `<answer>` with
    one letter. `short`: no system turn, for small models."""
    domain: str | None = None
    """`Biology`, `Chemistry`, `Material` or `Physics`; all where absent. Records of the papers are
    of one domain already."""
    level: str | None = None
    """`L1` to `L5`; the papers take `L3`."""
    kinds: tuple[str, ...] = ("mcq-4-choices", "mcq-2-choices")
    """Kinds of questions; those without choices cannot be judged by `choice`."""

    def __call__(self, rows: Sequence[ReadRow], part: Part) -> list[ReadRow]:
        """The questions of the chosen domain, level and kinds."""
        chosen = f"domain {self.domain}, level {self.level}, kinds {', '.join(self.kinds)}"
        return each_row(rows, self._columns, f"no question is of {chosen}")

    def _columns(self, columns: Columns) -> dict[str, Any] | None:
        kept = {name: columns[name] for name in _KEPT if columns.get(name) is not None}
        # The data set has an object in `prompt`, and its question elsewhere.
        if isinstance(columns.get("prompt"), str):
            answer, asked = text_of(columns, ("answer",)), text_of(columns, ("prompt",))
            system = columns.get("system") or SYSTEM
            return {
                **own_id(columns, ("id",)),
                "messages": chat(self._system(str(system)), asked),
                "answer": answer.strip(),
                **kept,
            }
        return {**self._raw(columns), **kept} if self._is_chosen(columns) else None

    def _raw(self, columns: Columns) -> dict[str, Any]:
        choices = table_of(columns, "choices")
        labels, texts = _listed(choices.get("label")), _listed(choices.get("text"))
        if not labels or len(labels) != len(texts):
            raise ValueError("choices: has no equal numbers of `label` and `text`")
        options = "\n".join(f"{one}: {text}" for one, text in zip(labels, texts, strict=True))
        question = text_of(columns, ("question",))
        return {
            **own_id(columns, ("id",)),
            "messages": chat(
                self._system(SYSTEM), f"{question}\n\n{options}\nPlease reason step by step."
            ),
            "answer": text_of(columns, ("answerKey",)).strip(),
            "choices": labels,
            "kind": columns.get("type"),
        }

    def _system(self, text: str) -> str | None:
        return None if self.prompt == "short" else text

    def _is_chosen(self, columns: Columns) -> bool:
        level = table_of(columns, "details").get("level")
        return (
            columns.get("type") in self.kinds
            and self.domain in (None, columns.get("domain"))
            and self.level in (None, level)
        )


def _listed(value: Any) -> list[str]:
    return [str(one) for one in cast("list[Any]", value)] if isinstance(value, list) else []
