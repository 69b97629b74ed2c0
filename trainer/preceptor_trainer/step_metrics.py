"""What one step says about itself, in numbers."""

from __future__ import annotations

from collections.abc import Sequence

from preceptor_trainer.asking import Asker, Labelled
from preceptor_trainer.rollouts import Attempt
from preceptor_trainer.update import StepResult


def collect_metrics(
    labelled: Sequence[Labelled],
    discarded: Sequence[Attempt],
    result: StepResult,
    asker: Asker,
    seconds: dict[str, float],
) -> dict[str, float]:
    """The step's metrics; takes and clears the asker's counts of answers that did not come."""
    scores = [row.attempt.score for row in labelled if row.attempt.score is not None]
    solved_groups = {row.attempt.rollout.group for row in labelled if row.attempt.score}
    groups = {row.attempt.rollout.group for row in labelled}
    kinds = [{item.kind for item in row.in_view.items} for row in labelled]
    dropped = {f"dropped/{code}": float(n) for code, n in asker.dropped.items()}
    num_dropped = float(sum(asker.dropped.values()))
    asker.dropped.clear()
    return {
        **result.metrics,
        "loss": result.loss,
        "grad_norm": result.grad_norm,
        "lr": result.lr,
        "skipped": float(result.skipped),
        "rollouts": float(len(labelled)),
        "discarded_rollouts": float(len(discarded)),
        "discarded_tokens": float(sum(len(a.rollout.response_ids) for a in discarded)),
        "targets": float(sum(row.target is not None for row in labelled)),
        "reward": _mean(scores),
        "solved_groups": len(solved_groups) / len(groups),
        "with_teacher": _mean([row.target is not None for row in labelled]),
        "with_demonstration": _mean(["demonstration" in k for k in kinds]),
        "with_feedback": _mean(["execution" in k for k in kinds]),
        "response_length": _mean([len(row.attempt.rollout.response_ids) for row in labelled]),
        "cut_off": _mean([row.attempt.rollout.finish_reason == "length" for row in labelled]),
        "dropped_answers": num_dropped,
        **dropped,
        **{f"seconds/{phase}": value for phase, value in seconds.items()},
    }


def _mean(values: Sequence[float | bool]) -> float:
    return sum(values) / len(values) if values else 0.0
