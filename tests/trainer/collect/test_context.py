"""The papers' context policy: sibling demonstration, else own feedback, never the attempt."""

from dataclasses import dataclass

import numpy as np

from preceptor_clients.contract.schemas import FeedbackItem
from preceptor_trainer.collect.context import NothingInView, PapersContext
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.tasks.task import NOT_JUDGED


@dataclass(frozen=True)
class Question:
    id: str = "p"
    messages: tuple[dict[str, str], ...] = ({"role": "user", "content": "?"},)
    payload: None = None


def attempt(i: int, score: float, text: str = "x", trace: str | None = "got 1, want 2") -> Attempt:
    rollout = Rollout(
        rollout_id=f"r{i}",
        group_id="g",
        group=0,
        problem=Question(),
        payload_sha256="0" * 64,
        prompt_ids=[1],
        response_ids=np.array([1], np.int32),
        response_text=text,
        behaviour_logprobs=np.zeros(1, np.float32),
        owned=np.ones(1, np.bool_),
        finish_reason="stop",
        step=0,
        weights="p/l0/0",
    )
    item = FeedbackItem(
        id=f"fb{i}",
        kind="execution",
        score=score,
        text=None if score else trace,
        source="executor",
        version="1",
    )
    return Attempt(rollout=rollout, items=(item,), task=NOT_JUDGED)


def test_a_failed_attempt_sees_a_successful_sibling_and_not_its_own_trace():
    views = PapersContext()([attempt(0, 0.0), attempt(1, 1.0, text="sorted(x)")])

    assert [i.kind for i in views[0].items] == ["demonstration"]
    assert views[0].items[0].text == "sorted(x)"
    assert views[0].items[0].details["rollout_id"] == "r1"


def test_without_a_success_each_attempt_sees_its_own_feedback_only():
    views = PapersContext()([attempt(0, 0.0), attempt(1, 0.0)])

    assert [[i.id for i in v.items] for v in views] == [["fb0"], ["fb1"]]


def test_the_only_success_has_no_teacher():
    views = PapersContext()([attempt(0, 1.0), attempt(1, 0.0)])

    assert views[0].items == ()


def test_a_success_sees_its_own_solution_where_that_is_wanted():
    group = [attempt(0, 1.0, text="sorted(x)"), attempt(1, 1.0, text="x[::-1]"), attempt(2, 0.0)]

    views = PapersContext(own_solution=True, demonstrations=False)(group)

    assert [view.items[0].kind for view in views] == ["demonstration"] * 2 + ["execution"]
    assert [views[i].items[0].text for i in (0, 1)] == ["sorted(x)", "x[::-1]"]
    assert [view.uses for view in views] == [{"r0"}, {"r1"}, {"r2"}]


def test_a_success_without_text_is_no_demonstration():
    group = [attempt(0, 1.0, text=" "), attempt(1, 1.0, text="sorted(x)"), attempt(2, 0.0)]

    views = PapersContext(own_solution=True)(group)

    assert [[i.text for i in view.items] for view in views] == [["sorted(x)"]] * 3


def test_demonstrations_rotate_over_the_successes():
    group = [attempt(0, 1.0), attempt(1, 1.0), attempt(2, 0.0), attempt(3, 0.0)]

    shown = [v.items[0].details["rollout_id"] for v in PapersContext()(group)]

    assert shown == ["r1", "r0", "r0", "r0"]


def test_thinking_is_stripped_from_demonstrations():
    group = [attempt(0, 0.0), attempt(1, 1.0, text="<think>hm\nhm</think>\nsorted(x)")]

    assert PapersContext()(group)[0].items[0].text == "sorted(x)"


def test_uses_names_every_rollout_whose_outcome_decided_the_view():
    group = [attempt(0, 0.0), attempt(1, 0.0), attempt(2, 1.0)]

    views = PapersContext()(group)

    # r1 is passed over because it failed: its outcome is part of why r0 sees r2.
    assert views[0].uses == {"r1", "r2"}
    assert views[1].uses == {"r2"}


def test_own_feedback_in_a_group_without_success_depends_on_all_outcomes():
    views = PapersContext()([attempt(0, 0.0), attempt(1, 0.0)])

    assert views[0].uses == {"r0", "r1"}


def test_feedback_that_experts_may_not_see_stays_out():
    hidden = attempt(0, 0.0)
    item = hidden.items[0].model_copy(update={"expert_may_see": False})

    views = PapersContext()(
        [Attempt(rollout=hidden.rollout, items=(item,), task=NOT_JUDGED), attempt(1, 0.0)]
    )

    assert views[0].items == ()


def test_the_control_arm_shows_nothing():
    assert all(not v.items for v in NothingInView()([attempt(0, 0.0), attempt(1, 1.0)]))
