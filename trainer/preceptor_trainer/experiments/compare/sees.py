"""The information of a method beside the problem: declared by its recipe, checked by its runs.

Readers of a comparison must know which information each method uses. A run counts the feedback in
experts' view, the experts that answered, and the rollouts that the student did not write; these are
checked against the declaration. The use of scores by an objective cannot be counted, so that column
is declared only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

from preceptor_clients.contract.schemas import REMARK_KINDS
from preceptor_trainer.collect.labelling import Labelled

ExpertOpinion: TypeAlias = Literal["none", "sampled token", "top-k"]


@dataclass(frozen=True, kw_only=True)
class Sees:
    """The information that a method uses."""

    score: Literal["no", "chooses demonstrations", "reward", "both"]
    """Whether an attempt succeeded, and what for."""
    trace: bool = False
    """The executor's text about the student's own attempt."""
    solution: bool = False
    """An attempt of the student at the same problem that succeeded: this one, or a sibling."""
    reference: bool = False
    """A right answer that the student did not write."""
    larger_model: bool = False
    """The distributions of a larger model."""
    opinion: ExpertOpinion = "top-k"
    """How much of an expert's next-token distribution reaches the loss."""
    own_attempts: Literal["all", "some", "none"] = "all"
    """Which of the trained sequences the student wrote itself."""


LABELS = {
    "score": "score",
    "trace": "own trace",
    "solution": "student's own solution",
    "reference": "reference solution",
    "larger_model": "larger model",
    "opinion": "of an expert's distribution",
    "own_attempts": "trained on own attempts",
}
"""Column headings."""

_KIND_FIELDS = {
    **dict.fromkeys(sorted(REMARK_KINDS), "trace"),
    "demonstration": "solution",
    "reference": "reference",
}
"""Which declaration covers a kind of feedback item."""


class Observed:
    """Counts what a run's rollouts and targets were made of."""

    def __init__(self, counts: dict[str, int] | None = None) -> None:
        self.counts: Counter[str] = Counter(counts or {})

    def add(self, labelled: Sequence[Labelled]) -> None:
        """One step's rollouts."""
        for row in labelled:
            rollout = row.attempt.rollout
            self.counts["rollouts"] += 1
            self.counts["scored"] += row.attempt.score is not None
            self.counts["own"] += bool(rollout.owned.all()) and not rollout.given
            if row.target is None:
                continue
            for kind in {item.kind for item in row.in_view.items if item.text}:
                self.counts[f"kind/{kind}"] += 1
            for name in {component.expert for component in row.target.components}:
                self.counts[f"expert/{name}"] += 1


def contradictions(sees: Sees, counts: dict[str, int], larger_experts: frozenset[str]) -> list[str]:
    """Information that a run used although its method declares that it does not.

    Args:
        sees: the declaration.
        counts: of `Observed`, summed over runs.
        larger_experts: names of experts that are larger models.
    """
    found: list[str] = []
    for kind, field in _KIND_FIELDS.items():
        if counts.get(f"kind/{kind}") and not getattr(sees, field):
            found.append(
                f"declares {field}=False, but {counts[f'kind/{kind}']} targets had it in view"
            )
    given = counts.get("rollouts", 0) - counts.get("own", 0)
    if given and not sees.reference:
        found.append(f"declares reference=False, but {given} rollouts were not the student's")
    if (given > 0) != (sees.own_attempts != "all"):
        found.append(f"declares own_attempts={sees.own_attempts!r}, but {given} were not its own")
    larger = sum(counts.get(f"expert/{name}", 0) for name in larger_experts)
    if larger and not sees.larger_model:
        found.append(f"declares larger_model=False, but {larger} targets came from one")
    answered = any(name.startswith("expert/") and n for name, n in counts.items())
    if answered and sees.opinion == "none":
        found.append("declares opinion='none', but experts answered")
    return found


def unused(sees: Sees, counts: dict[str, int], larger_experts: frozenset[str]) -> list[str]:
    """Declared information that no run used; it is reported and is not an error."""
    used = dict.fromkeys(_KIND_FIELDS.values(), False)
    for kind, field in _KIND_FIELDS.items():
        used[field] = used[field] or bool(counts.get(f"kind/{kind}"))
    given = counts.get("rollouts", 0) > counts.get("own", 0)
    used["reference"] = used["reference"] or given
    used["larger_model"] = any(counts.get(f"expert/{name}") for name in larger_experts)
    return [field for field, was_used in used.items() if getattr(sees, field) and not was_used]


def row(sees: Sees) -> list[str]:
    """The declaration in words, in the order of `LABELS`."""
    values = {field.name: getattr(sees, field.name) for field in fields(sees)}
    words = {True: "yes", False: "–"}
    return [words[v] if isinstance(v := values[name], bool) else str(v) for name in LABELS]
