"""One rollout for the report.

What the student wrote, what each expert would have written, and the cost of each token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from preceptor_clients.contract.schemas import REMARK_KINDS
from preceptor_clients.targets.builder import TargetComponent
from preceptor_trainer.collect.labelling import Labelled
from preceptor_trainer.learner.learner import RolloutCredit

NUM_ENTRIES = 4
WORKED_FILE = "worked_rollout.json"


def choose(labelled: Sequence[Labelled]) -> Labelled | None:
    """A rollout with a target; those with feedback in view first, then failed ones with remarks.

    Of equals, a longer one.
    """
    shown = [row for row in labelled if row.target is not None]
    return max(shown, key=_interest, default=None)


def _interest(row: Labelled) -> tuple[bool, bool, bool, int]:
    items = row.in_view.items
    remarked = any(item.kind in REMARK_KINDS for item in items)
    length = min(len(row.attempt.rollout.response_ids), 24)
    return bool(items), row.attempt.failed, remarked, length


def describe_rollout(
    row: Labelled, credit: RolloutCredit, decode: Callable[[list[int]], str]
) -> dict[str, Any]:
    """`row` as the report draws it.

    Args:
        row: A rollout with a target.
        credit: Its costs and advantages in the step that consumed it; advantages are costs.
        decode: Token ids to text, special tokens included.
    """
    assert row.target is not None
    rollout, components = row.attempt.rollout, row.target.components
    labelled_T = row.target.labelled_T()
    tokens: list[dict[str, Any]] = [
        {
            "id": int(token),
            "text": decode([int(token)]),
            "student_logprob": float(credit.old_logprob_T[t]),
            "owned": bool(rollout.owned[t]),
            "labelled": bool(labelled_T[t]),
            "cost": float(credit.cost_T[t]) if labelled_T[t] else None,
            "advantage": float(credit.advantage_T[t]),
            "opinions": [_opinion(component, t, decode) for component in components],
        }
        for t, token in enumerate(rollout.response_ids)
    ]
    costs = [token["cost"] or 0.0 for token in tokens]
    return {
        "target_id": row.target.id,
        "rollout_id": rollout.rollout_id,
        "step": rollout.step + 1,
        "prompt": "\n".join(m["content"] for m in rollout.problem.messages),
        "response": rollout.response_text,
        "solved": None if row.attempt.score is None else row.attempt.solved,
        "focus": int(np.argmax(costs)),
        "feedback": [
            {"kind": i.kind, "text": i.text, "source": i.source, "details": i.details}
            for i in row.in_view.items
        ],
        "experts": [{"name": c.expert, "kind": c.kind} for c in components],
        "tokens": tokens,
    }


def _opinion(
    component: TargetComponent, t: int, decode: Callable[[list[int]], str]
) -> dict[str, Any] | None:
    """One expert's part of the target at a token; None where it has no weight."""
    if not component.weight_T[t] > 0:
        return None
    best = zip(component.ids_TK[t], component.probs_TK[t], strict=True)
    entries = [[decode([int(i)]), float(p)] for i, p in best if i >= 0]
    own = component.own_logprobs_T[t] if component.own_mask_T[t] else None
    return {
        "weight": float(component.weight_T[t]),
        "entries": entries[:NUM_ENTRIES],
        "tail": float(component.tail_T[t]),
        "own_prob": None if own is None else float(np.exp(own)),
    }
