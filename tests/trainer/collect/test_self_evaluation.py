"""The policy judges itself by a rubric: its own replies, at its own version."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from preceptor_clients.contract.schemas import FeedbackOutcome, Records
from preceptor_clients.sdk.rubrics.rubric import make_rubric
from preceptor_trainer.collect.context import PapersContext
from preceptor_trainer.collect.labelling import Labeller
from preceptor_trainer.collect.rollouts import Rollout
from preceptor_trainer.collect.self_evaluation import SelfEvaluation, evaluate_own
from preceptor_trainer.sampling.sampler import Generation
from preceptor_trainer.tasks.task import ScoredTask

RUBRIC = make_rubric([{"name": "right", "question": "Is it 4?"}], ["answer"])
OWN = SelfEvaluation(name="self", rubric=RUBRIC)


class Believer:
    """A student of bytes that says yes of responses with a 4 in them."""

    version = "run/l0/3"
    max_positions: int | None = None

    def __init__(self, word: str | None = None) -> None:
        self.word = word
        self.batches: list[int] = []

    def chat_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        return list("\n".join(m["content"] for m in messages).encode())

    def text_of(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode()

    async def continuations(self, prompts: Any, forced: Any, *, params: Any, generator: Any) -> Any:
        assert params.top_k == 1
        self.batches.append(len(prompts))
        return [self._reply(bytes(ids).decode(), params.max_new_tokens) for ids in prompts]

    def _reply(self, chat: str, room: int) -> Generation:
        response = chat.split(" response\n")[1]
        text = "I look." if room > 100 else self.word or ("Yes" if response[0] == "4" else "No.")
        ids = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
        return Generation(
            response_ids=ids, logprobs=np.zeros(len(ids), np.float32), finish_reason="stop"
        )


def rollout(number: int, text: str) -> Rollout:
    problem = SimpleNamespace(
        id="p", messages=[{"role": "user", "content": "2 + 2?"}], payload={"answer": 4}
    )
    made = SimpleNamespace(
        rollout_id=f"r{number}", group_id="g", group=0, problem=problem, response_text=text,
        finish_reason="stop", episode=None, failure=None,
    )  # fmt: skip
    return cast(Rollout, made)


async def judged(student: Believer, *texts: str) -> list[FeedbackOutcome]:
    return await evaluate_own(OWN, student, [rollout(i, text) for i, text in enumerate(texts)])


async def test_the_version_that_wrote_an_attempt_judges_it() -> None:
    [right, wrong] = await judged(Believer(), "4", "5")

    assert right.answer is not None
    assert wrong.answer is not None
    [yes], [no] = right.answer.items, wrong.answer.items
    assert (yes.score, yes.text, no.score, no.text) == (1.0, None, 0.0, "right: I look.")
    assert yes.version == f"{RUBRIC.version}@run/l0/3"
    assert yes.id != no.id


async def test_all_attempts_are_asked_in_one_batch_and_equal_ones_once() -> None:
    student = Believer()

    outcomes = await judged(student, "4", "5", "4", "6")

    assert student.batches == [3, 3]  # reasons, then verdicts
    ids = [o.answer.items[0].id for o in outcomes if o.answer is not None]
    assert ids == ["self-r0", "self-r1", "self-r2", "self-r3"]


async def test_a_reply_that_is_no_verdict_is_an_error_and_no_score() -> None:
    [outcome] = await judged(Believer(word="Perhaps."), "4")

    assert outcome.answer is not None
    [item] = outcome.answer.items
    assert item.score is None
    assert "neither yes nor no: 'Perhaps.'" in str(item.error)


async def test_a_chat_beyond_the_students_context_is_a_problem() -> None:
    student = Believer()
    student.max_positions = 200

    [outcome] = await judged(student, "4")

    assert outcome.problem is not None
    assert "the student's context of 200 has no room" in outcome.problem.detail


async def test_what_the_policy_says_of_itself_is_recorded_beside_its_rollout() -> None:
    sent: list[Records] = []

    async def record(records: Records) -> None:
        sent.append(records)

    async def own(rollouts: Sequence[Rollout]) -> Sequence[FeedbackOutcome]:
        return await evaluate_own(OWN, Believer(), rollouts)

    labeller = Labeller(
        gateway=cast(Any, SimpleNamespace(record=record)),
        run="r",
        task=ScoredTask(sources=("self",)),
        experts=(),
        context=PapersContext(),
        vocab_fingerprint="v",
        batching="merge",
        own_judges={"self": own},
    )

    attempts = await labeller.feedback([rollout(0, "4")])
    await labeller.record_own(attempts)

    assert attempts[0].score == 1.0
    assert [f.rollout_id for f in sent[0].feedback] == ["r0"]
