"""A question's way: asked once, answered once, found again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from preceptor_clients.contract.errors import KeyReused, QueueFull
from preceptor_clients.contract.schemas import FeedbackItem
from preceptor_services.questions import submit
from preceptor_services.questions.plan import Admission
from preceptor_services.questions.question import Addressee, prepare_prefixes

from ..world import EXPERT, World


async def test_a_question_is_answered_through_the_queue(world: World) -> None:
    [posted] = await world.trainer.submit_logprobs("uniform", [world.submission("a")])

    await world.work()
    [outcome] = await world.trainer.collect_logprobs([posted.ticket.id])

    assert posted.ticket.state == "queued"
    assert outcome.ticket.state == "done"
    assert outcome.ticket.answer_id is not None
    assert outcome.answer.token_ids_P.tolist() == [1, 2, 3]
    np.testing.assert_allclose(outcome.answer.tail_P, 0.75, atol=1e-3)


async def test_waiting_reply_holds_until_the_answer_comes(world: World) -> None:
    asked = asyncio.create_task(
        world.trainer.submit_logprobs("uniform", [world.submission("a")], wait_s=30)
    )
    while not world.queue.entries:
        await asyncio.sleep(0.01)

    await world.work()
    [outcome] = await asked

    assert outcome.answer is not None


async def test_same_key_and_query_are_the_same_ticket(world: World) -> None:
    [first] = await world.trainer.submit_logprobs("uniform", [world.submission("a")])
    [again] = await world.trainer.submit_logprobs(
        "uniform", [world.submission("a", timeout_ms=5000)]
    )

    assert again.ticket.id == first.ticket.id
    assert len(world.queue.entries) == 1


async def test_same_key_with_another_query_is_refused(world: World) -> None:
    await world.trainer.submit_logprobs("uniform", [world.submission("a")])

    outcomes = await world.trainer.submit_logprobs(
        "uniform", [world.submission("a", (3, 2)), world.submission("b")]
    )
    with pytest.raises(KeyReused) as alone:
        await world.trainer.submit_logprobs("uniform", [world.submission("a", (3, 2))])

    assert outcomes[0].problem.code == "idempotency-key-reused"
    assert outcomes[1].ticket is not None
    assert alone.value.errors[0].field == "submissions[0].idempotency_key"


async def test_keys_of_two_callers_do_not_meet(world: World) -> None:
    [mine] = await world.trainer.submit_logprobs("uniform", [world.submission("a")])
    [theirs] = await world.clients["other"].submit_logprobs(
        "uniform", [world.submission("a", (3, 2))]
    )

    assert mine.ticket.id != theirs.ticket.id


async def test_a_hundred_equal_questions_are_asked_once(world: World) -> None:
    posted = await asyncio.gather(
        *(world.trainer.submit_logprobs("uniform", [world.submission(f"k{i}")]) for i in range(100))
    )
    tickets = [outcome.ticket.id for [outcome] in posted]

    claims = await world.work()
    outcomes = await world.trainer.collect_logprobs(tickets)

    assert len(set(tickets)) == 100
    assert sum(len(job.items) for job in claims.jobs) == 1
    assert {o.ticket.answer_id for o in outcomes} == {outcomes[0].ticket.answer_id}
    assert all(o.answer is not None for o in outcomes)


async def test_an_answer_that_is_there_is_not_asked_for_again(world: World) -> None:
    await world.trainer.submit_logprobs("uniform", [world.submission("a")])
    await world.work()

    [outcome] = await world.trainer.submit_logprobs("uniform", [world.submission("b")])

    assert outcome.ticket.cached
    assert outcome.answer is not None
    assert world.queue.entries == []


@pytest.mark.parametrize(
    "change",
    [
        {"response": (1, 2, 4)},
        {"top_k": 5},
        {"positions": ((0, 2),)},
        {"draw": 1},
        {"feedback": (FeedbackItem(id="f", kind="comment", text="no", source="me", version="1"),)},
    ],
)
async def test_a_different_question_has_another_answer_key(world: World, change: Any) -> None:
    [plain, changed] = await world.trainer.submit_logprobs(
        "uniform", [world.submission("a"), world.submission("b", **change)]
    )

    assert plain.ticket.answer_key != changed.ticket.answer_key


async def test_groups_become_jobs_within_the_limits_of_the_expert(world: World) -> None:
    group = [world.submission(f"g{i}", (1, i), group_id="g") for i in range(6)]
    other = [world.submission("h", (2, 2), group_id="h")]

    await world.trainer.submit_logprobs("uniform", group + other, batching="group")
    claims = await world.claim(world.queue.take())

    assert [len(job.items) for job in claims.jobs] == [4, 2, 1]
    assert all(job.exclusive for job in claims.jobs)
    first = [item.prefix.response_ids[1] for item in claims.jobs[0].items]
    assert first == [0, 1, 2, 3]


@pytest.mark.parametrize("gateway_options", [{"max_queue": 2}])
async def test_a_full_queue_takes_nothing_of_a_request(world: World) -> None:
    many = [world.submission(f"g{i}", (1, i), group_id=f"g{i}") for i in range(3)]

    with pytest.raises(QueueFull) as refused:
        await world.trainer.submit_logprobs("uniform", many, timeout_s=0.5)
    accepted = await world.trainer.submit_logprobs("uniform", many[:2])

    assert refused.value.retry_after_s == 1.0
    assert [o.ticket.state for o in accepted] == ["queued", "queued"]
    assert len(world.queue.entries) == 2


@pytest.mark.parametrize("gateway_options", [{"max_queue": 3}])
async def test_a_very_large_request_is_taken_in_parts_and_refused_from_where_the_queue_is_full(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "_MOST_TOGETHER", 2)
    many = [world.submission(f"g{i}", (1, i), group_id=f"g{i}") for i in range(5)]
    many[1] = many[0].model_copy(update={"query": many[1].query})  # its key, another question

    outcomes = await world.trainer.submit_logprobs("uniform", many)
    told = [o.problem.code if o.problem else o.ticket.state for o in outcomes]

    assert told == ["queued", "idempotency-key-reused", "queued", "queued", "queue-full"]
    assert len(world.queue.entries) == 3


async def test_each_submission_of_a_very_large_request_is_refused_for_its_own_fault(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "_MOST_TOGETHER", 2)
    first = [world.submission(f"g{i}", (1, i)) for i in range(4)]
    await world.trainer.submit_logprobs("uniform", first)
    others = [world.submission(f"g{i}", (2, i)) for i in range(4)]

    outcomes = await world.trainer.submit_logprobs("uniform", [*others, world.submission("new")])
    with pytest.raises(KeyReused) as whole:
        await world.trainer.submit_logprobs("uniform", others)

    fields = [[e.field for e in o.problem.errors] for o in outcomes if o.problem]
    assert fields == [[f"submissions[{i}].idempotency_key"] for i in range(4)]
    assert [error.field for error in whole.value.errors] == [field for [field] in fields]


def test_a_request_to_be_asked_in_one_call_is_not_divided(world: World) -> None:
    many = [world.submission(f"k{i}", (1, i)) for i in range(5)]
    addressee = Addressee(caller="a", service="uniform", info=EXPERT, priority=1)
    questions, errors = prepare_prefixes(addressee, many, {})
    admission = Admission(
        addressee=addressee,
        kind="prefix",
        questions=questions,
        errors=errors,
        run=None,
        exclusive=True,
    )

    parts = replace(admission, exclusive=False).parts(2)

    assert admission.parts(2) == [admission]
    assert [part.indices for part in parts] == [[0, 1], [2, 3], [4]]


async def test_a_source_gets_the_payload_and_its_items_get_unique_ids(world: World) -> None:
    submissions = [
        await world.feedback_submission("a", "x"),
        await world.feedback_submission("b", "y"),
    ]
    posted = await world.trainer.submit_feedback("executor", submissions)

    await world.work()
    outcomes = await world.trainer.collect_feedback([p.ticket.id for p in posted])

    items = [outcome.answer.items[0] for outcome in outcomes]
    assert [i.text for i in items] == [
        "x is wrong, tests {'tests': [1, 2]}",
        "y is wrong, tests {'tests': [1, 2]}",
    ]
    assert items[0].id != items[1].id
    assert items[0].details == {"isolation": "none at all"}


async def test_json_is_answered_as_json(world: World) -> None:
    body = (
        '{"expert": "uniform", "submissions": [{"idempotency_key": "a", "query": {"prompt": '
        '{"messages": [{"role": "user", "content": "hi"}]}, "response_ids": [1, 2], '
        '"top_k": 4, "vocab_fingerprint": "' + "ab" * 32 + '"}}]}'
    )
    key = world.settings.keys["trainer"].file.read_text()
    async with world.client(key) as client:
        received = await client.raw(
            "POST",
            "/v1/logprobs",
            content=body.encode(),
            headers={"accept": "application/json", "content-type": "application/json"},
        )

    assert (received.status, received.content_type) == (200, "application/json")
    assert b'"state":"queued"' in received.body
