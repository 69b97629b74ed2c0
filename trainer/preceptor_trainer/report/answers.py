"""What the student answered in each evaluation: prompts, responses and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from preceptor_trainer.evaluation.samples import Sample
from preceptor_trainer.report import wording
from preceptor_trainer.report.run_files import Evaluated

MOST_ANSWERS: Final = 80
"""Rows of one evaluation on the page; its file has all."""
_MOST_CHARACTERS: Final = 600


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One row of the table."""

    prompt: str
    response: str
    times: str
    verdict: str
    kind: str
    """`right`, `wrong` or `unknown`, by which the reader filters."""
    says: str


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The table of one evaluation."""

    title: str
    rows: Sequence[Answer]
    note: str


def tables(evaluations: Sequence[tuple[Evaluated, Sequence[Sample]]]) -> list[Answers]:
    """One table for each evaluation that has samples, the last one first."""
    return [_table(one, samples) for one, samples in reversed(evaluations) if samples]


def _table(evaluated: Evaluated, samples: Sequence[Sample]) -> Answers:
    shown = samples[:MOST_ANSWERS]
    rest = len(samples) - len(shown)
    file = f"evaluations/{evaluated.label}.samples.jsonl"
    note = f"The first {len(shown)} of {len(samples)} different answers; " if rest else ""
    return Answers(
        title=_title(evaluated),
        rows=[_answer(sample) for sample in shown],
        note=f"{note}{'all are' if rest else 'The same is'} in {file}.",
    )


def _title(evaluated: Evaluated) -> str:
    moment = {"before": "Before training", "after": "After training"}.get(
        evaluated.label, f"After step {evaluated.step}"
    )
    found = ", ".join(f"{name} {wording.percent(v)}" for name, v in evaluated.pass_at.items())
    return f"{moment}: {found}"


def _answer(sample: Sample) -> Answer:
    kind = {True: "right", False: "wrong", None: "unknown"}[sample.solved]
    score = "" if sample.score is None or sample.score in (0.0, 1.0) else f", {sample.score:.3g}"
    cut_off = ", cut off" if sample.finish_reason == "length" else ""
    word = {"right": "right", "wrong": "wrong", "unknown": "not judged"}[kind]
    return Answer(
        prompt=_short(sample.prompt),
        response=_short(sample.response),
        times=f"{sample.count} times" if sample.count > 1 else "",
        verdict=f"{word}{score}{cut_off}",
        kind=kind,
        says=_short(sample.says),
    )


def _short(text: str) -> str:
    cut = text[:_MOST_CHARACTERS]
    return cut if len(cut) == len(text) else f"{cut} … ({len(text)} characters)"
