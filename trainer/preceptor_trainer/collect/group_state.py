"""Groups of attempts as plain values, for checkpoints.

    state = group_state(group)
    group = group_of(state, task)          # with its experts still to be asked

Arrays are tensors, messages of the contract are their JSON; the rest are numbers and texts, so that
`torch.load(weights_only=True)` reads it. A problem keeps its name and its chat alone: its attempts
are judged already.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import torch

from preceptor_clients.contract.schemas import Episode, FeedbackItem
from preceptor_trainer.collect.context import InView
from preceptor_trainer.collect.late_answers import Group, Use
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.tasks.task import RecordedProblem, Task


def group_state(group: Group) -> dict[str, Any]:
    """The group as plain values."""
    return {
        "step": group.step,
        "rollouts": [_rollout_state(attempt.rollout) for attempt in group.attempts],
        "feedback": [
            {
                "items": _items_state(attempt.items),
                "unanswered": dict(attempt.unanswered),
                "cost": attempt.cost,
            }
            for attempt in group.attempts
        ],
        "in_view": [
            {"items": _items_state(view.items), "uses": sorted(view.uses)} for view in group.in_view
        ],
        "owed": sorted(group.tasks),
        "used": [{"step": use.step, "answered": use.answered} for use in group.used],
    }


def group_of(state: dict[str, Any], task: Task) -> Group:
    """The group that `group_state` wrote; its attempts are of `task`."""
    return Group(
        step=state["step"],
        attempts=[
            Attempt(
                rollout=_rollout(rollout),
                items=_items(feedback["items"]),
                task=task,
                unanswered=feedback["unanswered"],
                cost=feedback["cost"],
            )
            for rollout, feedback in zip(state["rollouts"], state["feedback"], strict=True)
        ],
        in_view=[
            InView(_items(view["items"]), frozenset(view["uses"])) for view in state["in_view"]
        ],
        tasks=dict.fromkeys(state["owed"]),
        used=[Use(step=use["step"], answered=use["answered"]) for use in state["used"]],
    )


def _rollout_state(rollout: Rollout) -> dict[str, Any]:
    values = {f.name: getattr(rollout, f.name) for f in fields(Rollout)}
    problem, episode = rollout.problem, rollout.episode
    return {
        **{name: _plain(value) for name, value in values.items()},
        "problem": {"id": problem.id, "messages": [dict(m) for m in problem.messages]},
        "prompt_ids": list(rollout.prompt_ids),
        "episode": None if episode is None else episode.model_dump(mode="json"),
    }


def _rollout(state: dict[str, Any]) -> Rollout:
    values: dict[str, Any] = {
        name: value.numpy() if isinstance(value, torch.Tensor) else value
        for name, value in state.items()
    }
    values["problem"] = RecordedProblem(**state["problem"])
    if state["episode"] is not None:
        values["episode"] = Episode.model_validate(state["episode"])
    return Rollout(**values)


def _plain(value: Any) -> Any:
    return torch.as_tensor(value.copy()) if isinstance(value, np.ndarray) else value


def _items_state(items: tuple[FeedbackItem, ...]) -> list[dict[str, Any]]:
    return [item.model_dump(mode="json") for item in items]


def _items(state: list[dict[str, Any]]) -> tuple[FeedbackItem, ...]:
    return tuple(FeedbackItem.model_validate(item) for item in state)
