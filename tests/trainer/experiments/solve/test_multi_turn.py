"""What stands in the prompt of the next turn."""

import numpy as np
import pytest

from preceptor_clients.contract.schemas import FeedbackItem
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.evaluation.held_out import NotGraded
from preceptor_trainer.experiments.solve.multi_turn import Dialogue, MultiTurn
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.student import STUDENT_DIR
from preceptor_trainer.tasks.programming_by_example.problems import sample_problems
from preceptor_trainer.tasks.programming_by_example.task import PROGRAMMING


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy(STUDENT_DIR)


def dialogue(prompt_tokens=400):
    (problem,) = sample_problems("train", count=1, seed=0)
    return Dialogue(problem=problem, settings=MultiTurn(prompt_tokens=prompt_tokens))


def attempt(problem, text, score=0.0):
    rollout = Rollout(
        rollout_id="r",
        group_id="g",
        group=0,
        problem=problem,
        payload_sha256="0",
        prompt_ids=[1],
        response_ids=np.array([2, 3], np.int32),
        response_text="answer",
        behaviour_logprobs=np.zeros(2, np.float32),
        owned=np.ones(2, np.bool_),
        finish_reason="stop",
        step=0,
        weights="p/l/0",
    )
    item = FeedbackItem(
        id="f", kind="execution", score=score, text=text, source="executor", version="1"
    )
    return Attempt(rollout=rollout, items=(item,), task=PROGRAMMING)


def content(dialogue, policy):
    return dialogue.asked(policy).messages[-1]["content"]


def test_the_first_turn_is_the_question_alone(policy):
    one = dialogue()

    assert content(one, policy) == one.problem.messages[-1]["content"]


def test_feedback_is_in_view_and_the_attempt_is_not(policy):
    one = dialogue()
    one.take(attempt(one.problem, "[1]->[2] not [3]"))

    text = content(one, policy)

    assert "[1]->[2] not [3]" in text
    assert "answer" not in text


def test_the_oldest_text_goes_first_when_the_prompt_is_full(policy):
    question_tokens = len(policy.encode(dialogue().problem.messages))
    one = dialogue(prompt_tokens=question_tokens + 60)
    for text in ("oldest " * 4, "middle " * 4, "newest " * 4):
        one.take(attempt(one.problem, text.strip()))

    text = content(one, policy)

    assert "newest" in text
    assert "oldest" not in text
    assert len(policy.encode(one.asked(policy).messages)) <= question_tokens + 60


def test_a_text_that_comes_again_stands_once_and_last(policy):
    one = dialogue()
    for text in ("first", "second", "first"):
        one.take(attempt(one.problem, text))

    text = content(one, policy)

    assert text.count("first") == 1
    assert text.index("second") < text.index("first")


def test_a_success_ends_the_dialogue_where_it_came():
    one = dialogue()
    one.take(attempt(one.problem, "wrong"))
    one.take(attempt(one.problem, "", score=1.0))

    found = one.trajectory(seed=3, seconds=0.5)

    assert (found.attempts, found.solved_at, found.tokens) == (2, 2, 4)


def test_an_attempt_that_nobody_judged_is_counted_apart_and_logged(caplog):
    one = dialogue()
    rollout = attempt(one.problem, "x").rollout
    failed = FeedbackItem(
        id="f", kind="execution", error="out of memory", source="executor", version="1"
    )

    one.take(Attempt(rollout=rollout, items=(), task=PROGRAMMING))
    one.take(attempt(one.problem, "wrong"))
    one.take(Attempt(rollout=rollout, items=(failed,), task=PROGRAMMING))
    one.take(attempt(one.problem, "", score=1.0))

    found = one.trajectory(seed=0, seconds=1.0)
    assert (found.attempts, found.solved_at, found.missing) == (2, 2, 2)
    assert "r was not judged: no source answered" in caplog.text
    assert "r was not judged: ['out of memory']" in caplog.text


def test_a_question_without_any_grade_ends_with_the_reason():
    one = dialogue()
    rollout = attempt(one.problem, "x").rollout

    one.take(Attempt(rollout=rollout, items=(), task=PROGRAMMING))

    with pytest.raises(NotGraded, match=r"none of the 1 attempts at .* was judged"):
        one.trajectory(seed=0, seconds=1.0)


def test_a_budget_that_the_question_alone_exceeds_is_refused(policy):
    with pytest.raises(ValueError, match="prompt_tokens: 3 are too few"):
        dialogue(prompt_tokens=3).asked(policy)
