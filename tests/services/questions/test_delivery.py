"""Claims and reports: fences, lost dispatchers, deadlines, late answers, lost brokers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from preceptor_clients.contract import wire
from preceptor_clients.contract.errors import (
    AnswerRefused,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    ProblemDetails,
    ServiceUnavailable,
    StaleFence,
)
from preceptor_clients.contract.schemas import (
    CollectRequest,
    LogprobsOutcomes,
    PrefixAnswer,
    PrefixSubmission,
)
from preceptor_services.dispatcher.calls import STOPPING
from preceptor_services.jobs.messages import ClaimedJobs, ClaimRequest, ItemResult
from preceptor_services.registry.services import ServiceEntry

from ..world import World


async def _ask(world: World, *keys: str, **fields: Any) -> list[str]:
    """Tickets of different questions in one group."""
    submissions = [
        world.submission(key, (1, 2 + n), group_id="g", **fields) for n, key in enumerate(keys)
    ]
    outcomes = await world.trainer.submit_logprobs("uniform", submissions, run="r")
    return [outcome.ticket.id for outcome in outcomes]


async def _states(world: World, tickets: list[str]) -> list[str]:
    return [o.ticket.state for o in await world.trainer.collect_logprobs(tickets)]


async def test_a_claim_shows_in_the_ticket(world: World) -> None:
    tickets = await _ask(world, "a")

    await world.claim(world.queue.take())

    assert await _states(world, tickets) == ["running"]


@pytest.mark.parametrize("accept", [wire.JSON, f"{wire.FRAME};logprobs=f32"])
async def test_questions_and_answers_are_the_same_in_every_rendering(
    world: World, accept: str
) -> None:
    # Neither the gateway's queries nor its answers are read where frames are passed on.
    queries = [world.query((1, 2)), world.query((3,), owned=np.array([True]))]
    submissions = [PrefixSubmission(idempotency_key=str(i), query=q) for i, q in enumerate(queries)]
    tickets = [o.ticket.id for o in await world.trainer.submit_logprobs("uniform", submissions)]
    ids = world.queue.take()

    claims = await _posted(world, "claims", ClaimRequest(dispatcher="d", job_ids=ids), accept)
    asked = [item.prefix for job in claims.jobs for item in job.items]
    for job in claims.jobs:
        await world.report(job, [world.result(job, item) for item in job.items])
    told = await _posted(world, "collect", CollectRequest(tickets=tickets), accept)

    answers = [outcome.answer for outcome in told.outcomes]
    assert [_same(q) for q in asked] == [_same(q) for q in queries]
    assert [_same(a) for a in answers] == [_same(world.uniform(q)) for q in queries]


async def _posted(world: World, route: str, body: BaseModel, accept: str) -> Any:
    paths = {"claims": "/v1/internal/claims", "collect": "/v1/tickets/collect"}
    replies = {"claims": ClaimedJobs, "collect": LogprobsOutcomes}
    client = world.clients["dispatcher" if route == "claims" else "trainer"]
    sent = {"content-type": wire.FRAME, "accept": accept}
    reply = await client.raw("POST", paths[route], content=wire.render(body), headers=sent)
    assert reply.content_type == accept.partition(";")[0]
    return wire.parse(replies[route], reply.body, reply.content_type)


def _same(message: BaseModel) -> str:
    return message.model_dump_json(exclude={"latency_ms"}, exclude_none=True)


async def test_the_report_of_an_older_claim_is_refused(world: World) -> None:
    tickets = await _ask(world, "a")
    job_ids = world.queue.take()
    [slow] = (await world.claim(job_ids, "slow")).jobs
    [fast] = (await world.claim(job_ids, "fast")).jobs

    with pytest.raises(StaleFence):
        await world.report(slow, [world.result(slow, slow.items[0])])
    await world.report(fast, [world.result(fast, fast.items[0])])
    with pytest.raises(StaleFence):
        await world.report(slow, [world.result(slow, slow.items[0])])

    assert fast.fence == slow.fence + 1
    assert await _states(world, tickets) == ["done"]


async def test_a_report_that_is_sent_again_is_taken_and_changes_nothing(world: World) -> None:
    tickets = await _ask(world, "a")
    [returned] = (await world.claim(world.queue.take())).jobs
    for _ in range(2):  # the reply to the first was lost
        await world.report(returned, final=False)
    put_again = world.queue.take()
    [job] = (await world.claim(put_again)).jobs

    await world.report(job, [world.result(job, job.items[0])])
    await world.report(job, [ItemResult(answer_key=job.items[0].answer_key, accepted=True)])

    assert put_again == [job.job_id]
    assert await _states(world, tickets) == ["done"]


async def test_a_finished_job_is_dropped_when_it_is_claimed_again(world: World) -> None:
    await _ask(world, "a")
    job_ids = list(world.queue.take())
    world.queue.entries = [("uniform", job_ids[0])]
    await world.work()

    claims = await world.claim([*job_ids, "j-unknown"])

    assert claims.jobs == ()
    assert claims.dropped == (*job_ids, "j-unknown")


async def test_a_job_given_back_is_queued_again_and_dead_after_three_failures(
    world: World,
) -> None:
    tickets = await _ask(world, "a")
    reason = ProblemDetails(status=503, code="unavailable", detail="connection refused")

    for delivery in range(3):
        [job] = (await world.claim(world.queue.take())).jobs
        assert job.fence == delivery + 1
        await world.report(job, final=False, reason=reason)
    [outcome] = await world.trainer.collect_logprobs(tickets)

    assert world.queue.entries == []
    assert outcome.ticket.state == "failed"
    assert outcome.problem.detail == "connection refused"


async def test_a_job_whose_dispatchers_were_killed_three_times_still_has_three_failures(
    world: World,
) -> None:
    await _ask(world, "a")
    [job_id] = world.queue.take()
    reason = ProblemDetails(status=503, code="unavailable", detail="connection refused")

    for _ in range(3):
        await world.claim([job_id])
    queued = []
    for _ in range(3):
        [job] = (await world.claim([job_id])).jobs
        await world.report(job, final=False, reason=reason)
        queued.append(world.queue.take())

    assert queued == [[job_id], [job_id], []]


async def test_dispatchers_that_stop_do_not_use_up_the_failures_of_a_job(world: World) -> None:
    await _ask(world, "a")
    [job_id] = world.queue.take()

    for _ in range(5):
        [job] = (await world.claim([job_id])).jobs
        await world.report(job, final=False, reason=STOPPING)

        assert world.queue.take() == [job_id]


async def test_a_job_that_kills_its_dispatchers_is_dead_after_six_deliveries(
    world: World,
) -> None:
    tickets = await _ask(world, "a")
    job_ids = world.queue.take()

    for _ in range(6):
        assert len((await world.claim(job_ids)).jobs) == 1
    last = await world.claim(job_ids)
    [outcome] = await world.trainer.collect_logprobs(tickets)

    assert last.dropped == tuple(job_ids)
    assert outcome.ticket.state == "failed"
    assert "6 deliveries" in outcome.problem.detail


async def test_a_failed_question_is_asked_anew_under_a_new_key(world: World) -> None:
    await _ask(world, "a")
    [job] = (await world.claim(world.queue.take())).jobs
    nonsense = AnswerRefused("mass", "of a row is 1.2").problem()
    await world.report(job, [ItemResult(answer_key=job.items[0].answer_key, problem=nonsense)])

    [ticket] = await _ask(world, "b")
    await world.work()

    assert await _states(world, [ticket]) == ["done"]


async def test_each_item_of_a_report_has_its_own_fate(world: World) -> None:
    tickets = await _ask(world, "a", "b", "c")
    [job] = (await world.claim(world.queue.take())).jobs
    first, second, _ = job.items
    nonsense = AnswerRefused("ids_PK", "names an id twice").problem()

    await world.report(
        job,
        [
            world.result(job, first),
            ItemResult(answer_key=second.answer_key, problem=nonsense),
        ],
    )
    outcomes = await world.trainer.collect_logprobs(tickets)

    assert [o.ticket.state for o in outcomes] == ["done", "failed", "failed"]
    assert outcomes[1].problem.errors[0].field == "answer.ids_PK"
    assert "reported no result" in outcomes[2].problem.detail


async def test_an_answer_of_another_version_is_refused(world: World) -> None:
    tickets = await _ask(world, "a")
    [job] = (await world.claim(world.queue.take())).jobs
    answer = world.uniform(job.items[0].prefix).model_copy(update={"expert_version": "2"})

    await world.report(job, [ItemResult(answer_key=job.items[0].answer_key, prefix=answer)])
    [outcome] = await world.trainer.collect_logprobs(tickets)

    assert outcome.problem.code == "answer-refused"
    assert outcome.problem.errors[0].field == "answer.version"


async def test_a_cancelled_question_never_starts(world: World) -> None:
    tickets = await _ask(world, "a", "b")
    job_ids = world.queue.take()

    for ticket in tickets:
        await world.trainer.cancel(ticket)
    claims = await world.claim(job_ids)

    assert await _states(world, tickets) == ["cancelled", "cancelled"]
    assert world.queue.cancelled == job_ids
    assert claims.dropped == tuple(job_ids)


async def test_cancelling_one_of_two_drops_only_its_question(world: World) -> None:
    cancelled, wanted = await _ask(world, "a", "b")

    await world.trainer.cancel(cancelled)
    [job] = (await world.claim(world.queue.take())).jobs

    assert len(job.items) == 1
    assert world.queue.cancelled == []
    assert await _states(world, [wanted]) == ["running"]


async def test_R8_the_answer_of_a_question_that_was_cancelled_while_it_ran_is_dropped(
    world: World,
) -> None:
    cancelled, kept = [
        (await world.trainer.submit_logprobs("uniform", [submission]))[0].ticket.id
        for submission in (world.submission("a", (1, 2)), world.submission("b", (2, 2)))
    ]
    jobs = (await world.claim(world.queue.take())).jobs
    await world.trainer.cancel(cancelled)

    reports = [(job, [world.result(job, item) for item in job.items], {}) for job in jobs]
    refused = await world.report_jobs(*reports)
    outcomes = await world.trainer.collect_logprobs([cancelled, kept])

    assert [problem is None for problem in refused] == [False, True]
    assert [outcome.ticket.state for outcome in outcomes] == ["cancelled", "done"]
    assert outcomes[0].answer is None


async def test_a_question_that_somebody_else_wants_survives_a_cancellation(world: World) -> None:
    [mine] = await _ask(world, "a")
    [also] = await _ask(world, "b")

    await world.trainer.cancel(mine)
    await world.work()

    assert await _states(world, [mine, also]) == ["cancelled", "done"]


async def test_callers_cannot_see_or_cancel_each_others_tickets(world: World) -> None:
    [ticket] = await _ask(world, "a")

    with pytest.raises(NotFound):
        await world.clients["other"].cancel(ticket)
    with pytest.raises(NotFound):
        await world.clients["other"].collect_logprobs([ticket])


async def test_a_ticket_past_its_deadline_fails_and_its_job_is_dropped(world: World) -> None:
    [posted] = await world.trainer.submit_logprobs(
        "uniform", [world.submission("a", timeout_ms=50)], wait_s=30
    )

    claims = await world.claim(world.queue.take())

    assert posted.ticket.state == "failed"
    assert posted.problem.code == "deadline-exceeded"
    assert claims.jobs == ()


async def _pass_time(world: World, seconds: float) -> None:
    world.clock.moved_s += seconds
    await world.app.state.questions.sweeper.sweep()


async def test_a_report_after_the_deadline_is_refused(world: World) -> None:
    tickets = await _ask(world, "a", timeout_ms=60_000)
    [job] = (await world.claim(world.queue.take())).jobs
    await _pass_time(world, 61.0)

    with pytest.raises(StaleFence):
        await world.report(job, [world.result(job, job.items[0])])

    assert await _states(world, tickets) == ["failed"]
    assert world.queue.cancelled == [job.job_id]


# ---------------------------------------------------------------- late answers


async def _promise(world: World, **fields: Any) -> tuple[str, Any]:
    [ticket] = await _ask(world, "a", **fields)
    [job] = (await world.claim(world.queue.take())).jobs
    item = job.items[0]
    await world.report(job, [ItemResult(answer_key=item.answer_key, accepted=True)])
    return ticket, item


async def _put(
    world: World, key: str, answer: PrefixAnswer, client: str = "expert", timeout_s: float = 30.0
) -> None:
    await world.clients[client].call("PUT", f"/v1/answers/{key}", body=answer, timeout_s=timeout_s)


async def test_a_late_answer_arrives(world: World) -> None:
    ticket, item = await _promise(world)
    assert await _states(world, [ticket]) == ["waiting"]
    before = await world.trainer.arrivals("r")

    await _put(world, item.answer_key, world.uniform(item.prefix))
    await _put(world, item.answer_key, world.uniform(item.prefix))
    after = await world.trainer.arrivals("r", after=before.cursor)

    assert before.arrivals == ()
    assert [a.ticket for a in after.arrivals] == [ticket]
    assert after.arrivals[0].idempotency_key == "a"
    assert (await world.trainer.arrivals("r", after=after.cursor)).arrivals == ()
    assert await _states(world, [ticket]) == ["done"]


async def test_a_promise_outlives_the_deadline(world: World) -> None:
    ticket, _ = await _promise(world, timeout_ms=60_000)

    await _pass_time(world, 61.0)

    assert await _states(world, [ticket]) == ["waiting"]


async def test_a_promise_ends_when_it_is_not_kept(world: World) -> None:
    ticket, item = await _promise(world, timeout_ms=60_000)
    [joined] = await world.trainer.submit_logprobs(
        "uniform", [world.submission("joined", timeout_ms=60_000)], run="r"
    )

    await _pass_time(world, 86_401.0)

    assert await _states(world, [ticket, joined.ticket.id]) == ["failed", "failed"]
    with pytest.raises(Conflict, match="expired"):
        await _put(world, item.answer_key, world.uniform(item.prefix))


async def test_a_late_answer_is_checked_at_the_door(world: World) -> None:
    ticket, item = await _promise(world)
    wrong = world.uniform(item.prefix)
    shifted = wrong.model_copy(update={"token_ids_P": np.roll(wrong.token_ids_P, 1)})

    with pytest.raises(AnswerRefused):
        await _put(world, item.answer_key, shifted)
    with pytest.raises(NotFound):
        await _put(world, "0" * 64, wrong)
    with pytest.raises(Forbidden):
        await _put(world, item.answer_key, wrong, client="trainer")

    assert await _states(world, [ticket]) == ["waiting"]


async def test_an_expert_answers_no_question_of_another(world: World) -> None:
    [theirs] = world.settings.keys["expert"].service[1:]
    ticket, item = await _promise(world)
    keyring = world.app.state.keyring
    [digest] = [d for d, c in keyring._callers.items() if c.name == "expert"]
    keyring._callers[digest] = keyring._callers[digest]._replace(services=frozenset({theirs}))

    with pytest.raises(Forbidden, match="another expert"):
        await _put(world, item.answer_key, world.uniform(item.prefix))

    assert await _states(world, [ticket]) == ["waiting"]


async def test_an_answer_that_was_never_promised_is_not_taken(world: World) -> None:
    [ticket] = await _ask(world, "a")
    [job] = (await world.claim(world.queue.take())).jobs
    item = job.items[0]

    with pytest.raises(ServiceUnavailable, match="has not been reported yet") as refused:
        await _put(world, item.answer_key, world.uniform(item.prefix), timeout_s=0.5)

    assert refused.value.retry_after_s
    assert await _states(world, [ticket]) == ["running"]


async def test_an_answer_in_anothers_name_is_refused(world: World) -> None:
    ticket, item = await _promise(world)

    with pytest.raises(Invalid, match="with the name teacher"):
        await _put(world, item.answer_key, world.uniform(item.prefix, "teacher"))

    assert await _states(world, [ticket]) == ["waiting"]


async def test_a_second_late_answer_does_not_replace_the_first(world: World) -> None:
    _, item = await _promise(world)
    await _put(world, item.answer_key, world.uniform(item.prefix))

    with pytest.raises(Conflict):
        await _put(world, item.answer_key, world.uniform(item.prefix, cost=3.0))


# ---------------------------------------------------------------- the broker


async def test_tickets_stand_while_the_broker_is_down(world: World) -> None:
    world.queue.down = True
    tickets = await _ask(world, "a")
    world.queue.down = False

    await world.app.state.questions.sweeper.reconcile()
    await world.work()

    assert await _states(world, tickets) == ["done"]


async def test_a_broker_that_forgot_everything_is_told_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preceptor_services.questions.sweep._FRESH_S", -1.0)
    tickets = await _ask(world, "a")
    world.queue.entries.clear()

    await world.app.state.questions.sweeper.reconcile()
    await world.app.state.questions.sweeper.reconcile()
    await world.work()

    assert await _states(world, tickets) == ["done"]


async def test_jobs_that_stand_on_the_stream_are_not_put_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preceptor_services.questions.sweep._FRESH_S", -1.0)
    await _ask(world, "a")

    for _ in range(3):
        await world.app.state.questions.sweeper.reconcile()

    assert len(world.queue.entries) == 1


async def test_jobs_that_end_while_they_are_counted_are_no_loss_of_the_broker(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preceptor_services.questions.sweep._FRESH_S", -1.0)
    asked = [world.submission(f"k{n}", (1, 2 + n), group_id=f"g{n}") for n in range(3)]
    await world.trainer.submit_logprobs("uniform", asked)
    depth = world.queue.depth

    async def depth_after_work(service: str) -> int:
        standing = world.queue.entries[1:]
        world.queue.entries = world.queue.entries[:1]
        await world.work()
        world.queue.entries += standing
        return await depth(service)

    monkeypatch.setattr(world.queue, "depth", depth_after_work)
    for _ in range(2):
        await world.app.state.questions.sweeper.reconcile()

    assert len(world.queue.entries) == 1


# ---------------------------------------------------------------- the registry


async def test_a_service_that_never_answered_cannot_be_asked(world: World) -> None:
    registry = world.app.state.registry
    registry._entries["late"] = ServiceEntry(
        name="late",
        role="expert",
        url="http://nowhere",
        key_file=world.folder,
        cost=0.0,
        priority=5,
    )

    with pytest.raises(Exception, match="late is not ready"):
        await world.trainer.submit_logprobs("late", [world.submission("a")], timeout_s=0.5)
    statuses = {s.name: s.state for s in (await world.trainer.experts()).services}

    assert statuses == {
        "executor": "ready",
        "late": "unreachable",
        "teacher": "ready",
        "uniform": "ready",
    }
