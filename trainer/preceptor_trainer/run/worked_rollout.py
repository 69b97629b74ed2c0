"""One rollout for the report.

What the student wrote, what the expert would have written, and the cost of each token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from preceptor_clients.contract.schemas import REMARK_KINDS
from preceptor_trainer.collect.labelling import Labelled
from preceptor_trainer.learner.learner import RolloutCredit

NUM_ENTRIES = 4


def choose(labelled: Sequence[Labelled]) -> Labelled | None:
    """A rollout with a target; failed ones with remarks in view first, then longer ones."""
    shown = [row for row in labelled if row.target is not None and row.in_view.items]
    return max(shown, key=_interest, default=None)


def _interest(row: Labelled) -> tuple[bool, bool, int]:
    remarked = any(item.kind in REMARK_KINDS for item in row.in_view.items)
    return row.attempt.failed, remarked, min(len(row.attempt.rollout.response_ids), 24)


def describe_rollout(
    row: Labelled, credit: RolloutCredit, decode: Callable[[list[int]], str]
) -> dict[str, Any]:
    """`row` as the report draws it.

    Args:
        row: A rollout with a target.
        credit: Its costs and advantages in the step that consumed it.
        decode: Token ids to text, special tokens included.
    """
    assert row.target is not None
    rollout, component = row.attempt.rollout, row.target.components[0]
    labelled_T = row.target.labelled_T()
    tokens = [
        {
            "id": int(token),
            "text": decode([int(token)]),
            "student_logprob": float(credit.old_logprob_T[t]),
            "owned": bool(rollout.owned[t]),
            "labelled": bool(labelled_T[t]),
            "cost": float(credit.cost_T[t]) if labelled_T[t] else None,
            "advantage": float(credit.advantage_T[t]),
            "entries": [
                [decode([int(i)]), float(p)]
                for i, p in zip(
                    component.ids_TK[t, :NUM_ENTRIES],
                    component.probs_TK[t, :NUM_ENTRIES],
                    strict=True,
                )
                if i >= 0
            ],
            "tail": float(component.tail_T[t]),
            "own_prob": float(np.exp(component.own_logprobs_T[t]))
            if component.own_mask_T[t]
            else None,
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
        "solved": row.attempt.solved,
        "focus": int(np.argmax(costs)),
        "feedback": [
            {"kind": i.kind, "text": i.text, "source": i.source, "details": i.details}
            for i in row.in_view.items
        ],
        "tokens": tokens,
    }
