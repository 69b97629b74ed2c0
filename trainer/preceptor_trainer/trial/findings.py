"""What a trial finds: mistakes that would waste a run, and what to do about each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from preceptor_clients.contract.control_tokens import control_tokens
from preceptor_trainer.collect.labelling import Labelled
from preceptor_trainer.collect.rollouts import Attempt
from preceptor_trainer.data.rows import Row
from preceptor_trainer.objectives import Objective
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.trial.finding import Finding, counted
from preceptor_trainer.trial.stages import Trial
from preceptor_trainer.trial.template import rendered_findings, start_findings, template_findings

ANSWER_COLUMNS: Final = ("answer", "expected", "gold", "label", "reference", "solution", "target")
"""Columns that hold a right answer in most data sets."""
LEAKED_SHARE: Final = 0.8
"""Share of rows with the answer in their prompt from which on it is no coincidence."""
_OPTION: Final = re.compile(r"\(?[A-Ja-j]\)?")
"""The letter of a choice stands in every prompt that lists the choices."""
SAME_NATS: Final = 1e-3
"""Teachers whose log-probs differ by less say what the student says."""
MANY: Final = 0.5
MIN_ANSWERS: Final = 8
"""Answers of a teacher from which on its success is compared with the student's."""


def findings(
    trial: Trial,
    train: Sequence[Row],
    held_out: Sequence[Row],
    *,
    reference: str | None = None,
    prompt: str | None = None,
) -> list[Finding]:
    """Everything that was found, mistakes first.

    Args:
        trial: The rows that went through the stages.
        train: All training rows.
        held_out: All held-out rows.
        reference: Column with the right answer, where the run names it.
        prompt: The run's own user turn, which names columns, where it has one.
    """
    policy = trial.policy
    words = control_tokens(policy.tokenizer).values()
    found = [
        *template_findings(policy.tokenizer, trial.config.chat_template_kwargs, policy.end_ids),
        *start_findings(policy.tokenizer, [a.rollout.prompt_ids for a in trial.attempts]),
        *rendered_findings(words, [row.messages for row in train]),
        *_overlap(train, held_out),
        *_leaks([*train, *held_out], reference, prompt or ""),
        *_lengths(trial, len(train)),
        *_ends(trial.attempts),
        *_judges(trial.attempts, trial.config),
        *_groups(trial),
        *_teachers(trial),
        *_missing(trial),
    ]
    return sorted(found, key=lambda finding: not finding.is_mistake)


def _overlap(train: Sequence[Row], held_out: Sequence[Row]) -> list[Finding]:
    ids = {row.id for row in held_out}
    texts = {row.prompt_text for row in held_out}
    both = [row for row in train if row.id in ids or row.prompt_text in texts]
    if not both:
        return []
    return [
        Finding(
            f"{counted(len(both), 'held-out row')} are trained on, such as {both[0].where}: the "
            "evaluation measures memory",
            'set data.overlap = "drop", or take them out of the training rows',
        )
    ]


def _leaks(rows: Sequence[Row], reference: str | None, prompt: str) -> list[Finding]:
    names = {name for row in rows for name in row.payload if name in ANSWER_COLUMNS}
    names |= {reference} if reference else set()
    asked = {name for name in names if f"{{{name}" in prompt}
    found: list[Finding] = []
    for name in sorted(names):
        given = [(r, str(r.payload[name]).strip()) for r in rows if _is_answer(r.payload, name)]
        leaked = [row for row, answer in given if _stands_in(answer, row.prompt_text)]
        if name in asked or (given and len(leaked) >= LEAKED_SHARE * len(given)):
            found.append(
                Finding(
                    f"the prompts of {len(leaked)} of {counted(len(given), 'row')} hold their own "
                    f"answer (column {name!r}), such as {leaked[0].where if leaked else 'all'}",
                    "take the answer out of `prompt` or `messages`; judges see all columns anyway",
                )
            )
    return found


def _is_answer(columns: Mapping[str, Any], name: str) -> bool:
    value = columns.get(name)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return False
    return bool(str(value).strip()) and not _OPTION.fullmatch(str(value).strip())


def _stands_in(answer: str, text: str) -> bool:
    spaced = " ".join(answer.split())
    return re.search(rf"(?<!\w){re.escape(spaced)}(?!\w)", text) is not None


def _lengths(trial: Trial, num_rows: int) -> list[Finding]:
    fit = trial.fit
    found: list[Finding] = []
    if fit.num_cut:
        found.append(
            Finding(
                f"{fit.num_cut} of {num_rows} prompts are cut: the student does not read the "
                "beginning of its question",
                'raise data.max_prompt, or set data.long_prompts = "skip"',
            )
        )
    if fit.num_skipped:
        found.append(
            Finding(
                f"{fit.num_skipped} of {num_rows} prompts are too long, and left out",
                "raise data.max_prompt, or lower rollout.max_tokens to leave them room",
                is_mistake=fit.num_skipped > MANY * num_rows,
            )
        )
    return found


def _ends(attempts: Sequence[Attempt]) -> list[Finding]:
    cut = [a for a in attempts if a.rollout.finish_reason == "length"]
    if not cut:
        return []
    every = len(cut) == len(attempts)
    said = "the end token was never met" if every else "the others met an end token"
    return [
        Finding(
            f"{len(cut)} of {counted(len(attempts), 'response')} were cut off at the length limit; "
            f"{said}",
            "raise rollout.max_tokens; where the texts above go on after the answer, check the "
            "chat template, and the model's end tokens (`eos_token_id` in generation_config.json)",
            is_mistake=len(cut) > MANY * len(attempts),
        )
    ]


def _judges(attempts: Sequence[Attempt], config: RunConfig) -> list[Finding]:
    if not config.sources:
        return []
    errors = [i.error for a in attempts for i in a.items if i.error is not None]
    scores = [score for a in attempts if (score := a.score) is not None]
    found: list[Finding] = []
    if errors:
        found.append(
            Finding(
                f"{len(errors)} of {counted(len(attempts), 'judgement')} failed; the last says: "
                f"{errors[-1]}",
                "mend the function; an attempt whose judgement failed has no reward",
            )
        )
    if not scores:
        return found
    if len(set(scores)) == 1 and len(scores) > 1:
        found.append(_constant(scores[0], len(scores), config))
    return found


def _constant(score: float, count: int, config: RunConfig) -> Finding:
    if score <= 0:
        return Finding(
            f"every one of {counted(count, 'attempt')} has the reward {score:g}: the judge is "
            "wrong, or the rows are too hard for the student",
            "compare responses and judgements above; if they are right, take easier rows, more "
            "attempts (rollout.n), or a right answer in view (teacher.reference)",
        )
    return Finding(
        f"every one of {counted(count, 'attempt')} has the reward {score:g}: the judge is wrong, "
        "or there is nothing to learn",
        "compare responses and judgements above; if they are right, take harder rows",
    )


def _groups(trial: Trial) -> list[Finding]:
    """Objectives that compare siblings learn nothing from groups of equal rewards."""
    groups: dict[int, set[float]] = {}
    for attempt in trial.attempts:
        if attempt.score is not None:
            groups.setdefault(attempt.rollout.group, set()).add(attempt.score)
    mixed = [scores for scores in groups.values() if len(scores) > 1]
    rewards = {score for scores in groups.values() for score in scores}
    if trial.config.experts or mixed or len(rewards) < 2:
        return []
    return [
        Finding(
            "in no group do the rewards differ, and this objective compares the attempts at one "
            "row with each other",
            "raise rollout.n, or take rows that the student sometimes solves",
        )
    ]


def _teachers(trial: Trial) -> list[Finding]:
    if not trial.config.experts:
        return []
    without = [row for row in trial.labelled if row.target is None]
    found: list[Finding] = []
    waiting = any(expert.needs_feedback for expert in trial.config.experts)
    unseen = [row for row in trial.labelled if not row.in_view.items]
    if waiting and len(unseen) == len(trial.labelled):
        found.append(
            Finding(
                "the teacher sees nothing that the student does not see: no attempt has feedback "
                "with a text, a solved sibling, or a reference",
                "let the judge say what was wrong (Feedback(score, text)), raise rollout.n so that "
                "siblings succeed, or set teacher.reference = true with data.reference",
            )
        )
    elif len(without) > MANY * len(trial.labelled):
        found.append(
            Finding(
                f"{len(without)} of {counted(len(trial.labelled), 'attempt')} have no target: "
                "nothing is in the teacher's view for them, or it did not answer",
                "let the judge say what was wrong (Feedback(score, text)), or raise rollout.n",
                is_mistake=False,
            )
        )
    found += _successes_alone(trial.labelled, trial.config.objective)
    found += _same_opinions(trial)
    found += _teachers_success(trial)
    return found


def _successes_alone(labelled: Sequence[Labelled], objective: Objective) -> list[Finding]:
    """DistIL's second term compares siblings that have a teacher."""
    if not isinstance(objective, DistIL) or objective.future == "none":
        return []
    solved = [row for row in labelled if row.attempt.solved]
    alone = [row for row in solved if row.target is None]
    failures = [row for row in labelled if row.attempt.failed and row.target is not None]
    if not failures or len(alone) <= MANY * len(solved):
        return []
    return [
        Finding(
            f"{len(alone)} of {counted(len(solved), 'solved attempt')} have no target, so that the "
            "objective compares failures with each other alone",
            "set teacher.own_solution = true",
            is_mistake=False,
        )
    ]


def _same_opinions(trial: Trial) -> list[Finding]:
    gaps: dict[str, list[float]] = {}
    credits = {credit.rollout_id: credit for credit in trial.result.credits}
    for row in trial.labelled:
        if row.target is None:
            continue
        own = credits[row.attempt.rollout.rollout_id].old_logprob_T
        for part in row.target.components:
            known = part.own_mask_T.astype(bool)
            gaps.setdefault(part.expert, []).extend(
                np.abs(part.own_logprobs_T[known] - own[known]).tolist()
            )
    same = [name for name, values in gaps.items() if values and max(values) < SAME_NATS]
    return [
        Finding(
            f"{name} says at every token what the student says, so there is nothing to learn from "
            "it",
            "check what it reads: it needs feedback in view, or must be another model",
        )
        for name in same
    ]


def _teachers_success(trial: Trial) -> list[Finding]:
    found: list[Finding] = []
    for name in dict.fromkeys(answer.teacher for answer in trial.taught):
        answers = [t.attempt for t in trial.taught if t.teacher == name]
        groups = {a.rollout.group for a in answers}
        own = success(a for a in trial.attempts if a.rollout.group in groups)
        taught = success(answers)
        if own is None or taught is None or len(answers) < MIN_ANSWERS or taught > own:
            continue
        found.append(
            Finding(
                f"{name} solves {taught:.0%} with everything in its view, the student {own:.0%} "
                "without: the teacher is no better",
                "sharpen it (teacher.self.temperature below 1), let the judge say more, show it a "
                "right answer (teacher.reference), or take a larger teacher; "
                + (
                    "DistIL's second term may still learn more than the teacher knows"
                    if isinstance(trial.config.objective, DistIL)
                    else "or an objective that learns from rewards"
                ),
                is_mistake=taught == 0,
            )
        )
    return found


def _missing(trial: Trial) -> list[Finding]:
    return [
        Finding(
            f"{counted(count, 'answer')} did not come ({code}): {trial.reasons[code]}",
            "mend the service or the rows; a run goes on without missing answers, but learns less",
        )
        for code, count in trial.dropped.items()
    ]


def success(attempts: Iterable[Attempt]) -> float | None:
    """Share of solved attempts among those that were judged; None where none was."""
    judged = [a for a in attempts if a.score is not None]
    return sum(a.solved for a in judged) / len(judged) if judged else None
