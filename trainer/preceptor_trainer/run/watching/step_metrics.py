"""The metrics of one step.

`reward` and `solved_groups` are over all that was judged, groups that dynamic sampling discards
included: they measure the student, not the choice of groups. The others are over what trains.
"""

from __future__ import annotations

from collections.abc import Sequence

from preceptor_clients.contract.schemas import REMARK_KINDS
from preceptor_trainer.collect.dynamic_sampling import Judged
from preceptor_trainer.collect.failed_judgements import failures_by_source, unjudged
from preceptor_trainer.collect.labelling import Labelled, Labeller
from preceptor_trainer.collect.rollouts import Attempt
from preceptor_trainer.learner.learner import StepResult


def collect_metrics(
    labelled: Sequence[Labelled],
    judged: Judged,
    result: StepResult,
    labeller: Labeller,
    seconds: dict[str, float],
) -> dict[str, float]:
    """The step's metrics; reads and clears the labeller's counts of missing answers."""
    discarded = judged.discarded
    attempts = [*(row.attempt for row in labelled), *discarded]
    judged_attempts = [attempt for attempt in attempts if attempt.score is not None]
    solved_groups = {attempt.rollout.group for attempt in attempts if attempt.solved}
    groups = {attempt.rollout.group for attempt in judged_attempts}
    kinds = [{item.kind for item in row.in_view.items} for row in labelled]
    dropped = {f"dropped/{code}": float(n) for code, n in labeller.dropped.items()}
    num_dropped = float(sum(labeller.dropped.values()))
    labeller.dropped.clear()
    return {
        **result.metrics,
        "loss": result.loss,
        "grad_norm": result.grad_norm,
        "lr": result.lr,
        "skipped": float(result.skipped),
        "rollouts": float(len(labelled)),
        "discarded_rollouts": float(len(discarded)),
        "discarded_tokens": float(sum(len(a.rollout.response_ids) for a in discarded)),
        "missing_groups": float(judged.missing_groups),
        "targets": float(sum(row.target is not None for row in labelled)),
        **_rewards(judged_attempts, len(solved_groups), len(groups)),
        **_failures(attempts),
        "with_teacher": _mean([row.target is not None for row in labelled]),
        "with_demonstration": _mean(["demonstration" in k for k in kinds]),
        "with_feedback": _mean([bool(k & REMARK_KINDS) for k in kinds]),
        "response_length": _mean([len(row.attempt.rollout.response_ids) for row in labelled]),
        "cut_off": _mean([row.attempt.rollout.finish_reason == "length" for row in labelled]),
        "dropped_answers": num_dropped,
        **dropped,
        **{f"seconds/{phase}": value for phase, value in seconds.items()},
    }


def _rewards(
    judged: Sequence[Attempt], num_solved_groups: int, num_groups: int
) -> dict[str, float]:
    """Nothing where nothing was judged, which is not a reward of 0."""
    if not judged:
        return {}
    scores = [attempt.score for attempt in judged if attempt.score is not None]
    return {"reward": _mean(scores), "solved_groups": num_solved_groups / num_groups}


def _failures(attempts: Sequence[Attempt]) -> dict[str, float]:
    """Failed judgements, and what the judgements cost; empty where there is neither."""
    by_source = failures_by_source(attempts)
    cost = sum(attempt.cost for attempt in attempts)
    counts = {f"failed_judgements/{source}": float(n) for source, n in by_source.items()}
    if by_source:
        counts["failed_judgements"] = float(by_source.total())
        counts["unjudged"] = float(len(unjudged(attempts)))
    return counts | ({"feedback_cost": cost} if cost else {})


def _mean(values: Sequence[float | bool]) -> float:
    return sum(values) / len(values) if values else 0.0
