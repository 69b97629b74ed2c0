"""Which rollout a run describes, and what of it."""

from types import SimpleNamespace

import numpy as np

from preceptor_clients.contract.arrays import MISSING
from preceptor_clients.contract.schemas import FeedbackItem
from preceptor_clients.targets.builder import Target, TargetComponent
from preceptor_trainer.collect.context import InView
from preceptor_trainer.collect.labelling import Labelled
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.learner.learner import RolloutCredit
from preceptor_trainer.run.worked_rollout import choose, describe_rollout
from preceptor_trainer.tasks.task import NOT_JUDGED


def component(expert: str, ids: list[int], weights: list[float], known: bool) -> TargetComponent:
    T = len(ids)
    return TargetComponent(
        answer_id=f"a-{expert}",
        expert=expert,
        kind="topk",
        ids_TK=np.array(ids, np.int32)[:, None],
        probs_TK=np.full((T, 1), 0.75, np.float32),
        tail_T=np.full(T, 0.25, np.float32),
        weight_T=np.array(weights, np.float32),
        own_logprobs_T=np.full(T, 0.0 if known else MISSING, np.float32),
        own_mask_T=np.full(T, known),
        candidate_logprobs_TC=np.zeros((T, 0), np.float32),
        candidate_mask_TC=np.zeros((T, 0), np.bool_),
    )


def labelled(name: str, *components: TargetComponent, items: int = 0) -> Labelled:
    rollout = Rollout(
        rollout_id=name,
        group_id="g",
        group=0,
        problem=SimpleNamespace(id="p", messages=({"role": "user", "content": "Hi"},), payload={}),
        payload_sha256="a" * 64,
        prompt_ids=[7],
        response_ids=np.array([1, 2], np.int32),
        response_text="12",
        behaviour_logprobs=np.zeros(2, np.float32),
        owned=np.ones(2, np.bool_),
        finish_reason="stop",
        step=0,
        weights="r/l0/0",
    )
    item = FeedbackItem(id="f", kind="execution", text="wrong", source="executor", version="1")
    return Labelled(
        attempt=Attempt(rollout=rollout, items=(), task=NOT_JUDGED),
        in_view=InView(items=(item,) * items, uses=frozenset()),
        target=Target(
            rollout_id=name,
            components=components,
            candidate_ids_TC=np.zeros((2, 0), np.int32),
        ),
    )


CREDIT = RolloutCredit(
    rollout_id="r",
    cost_T=np.array([0.5, 1.5], np.float32),
    advantage_T=np.zeros(2, np.float32),
    old_logprob_T=np.full(2, -1.0, np.float32),
)
TEACHER = component("teacher", [3, 4], [0.5, 1.0], known=True)
WORDS = component("words", [5, 6], [0.5, 0.0], known=False)


def test_every_expert_of_a_mixture_is_described_with_its_share() -> None:
    found = describe_rollout(labelled("r", TEACHER, WORDS), CREDIT, lambda ids: str(ids[0]))

    assert [expert["name"] for expert in found["experts"]] == ["teacher", "words"]
    first, second = (token["opinions"] for token in found["tokens"])
    assert [(o["weight"], o["entries"]) for o in first] == [
        (0.5, [["3", 0.75]]),
        (0.5, [["5", 0.75]]),
    ]
    assert [o["own_prob"] for o in first] == [1.0, None]
    assert second[1] is None


def test_a_run_whose_experts_see_no_feedback_has_a_worked_rollout_too() -> None:
    without, with_feedback = labelled("a", TEACHER), labelled("b", TEACHER, items=1)

    assert choose([without]) is without
    assert choose([without, with_feedback]) is with_feedback
