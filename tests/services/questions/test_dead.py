"""Jobs that were given up are listed, and asked again when an operator says so."""

from __future__ import annotations

from typing import Any

import pytest

from preceptor_clients.contract.errors import Conflict, NotFound, ServiceUnavailable
from preceptor_clients.contract.operations import AuditPage, DeadJob, DeadJobs, Replayed

from ..world import World


async def _give_up(world: World, *keys: str) -> list[str]:
    """Tickets of one job that fails three times."""
    submissions = [world.submission(key, (1, 2, number)) for number, key in enumerate(keys)]
    posted = await world.trainer.submit_logprobs("uniform", submissions)
    job_ids = world.queue.take()
    for _ in range(3):
        [job] = (await world.claim(job_ids)).jobs
        reason = ServiceUnavailable("the expert is on fire").problem()
        await world.report(job, [], final=False, reason=reason)
        world.queue.take()
    return [outcome.ticket.id for outcome in posted]


async def _dead(world: World) -> list[DeadJob]:
    return list((await world.clients["admin"].call("GET", "/v1/jobs/dead", reply=DeadJobs)).jobs)


async def _replay(world: World, job_id: str) -> Replayed:
    return await world.clients["admin"].call("POST", f"/v1/jobs/{job_id}/replay", reply=Replayed)


async def _states(world: World, tickets: list[str]) -> list[Any]:
    return [o.ticket.state for o in await world.trainer.collect_logprobs(tickets)]


async def test_R6_a_job_that_was_given_up_is_listed_with_its_reason(world: World) -> None:
    await _give_up(world, "a", "b")

    [job] = await _dead(world)

    assert (job.service, job.questions, job.attempts) == ("uniform", 2, 3)
    assert job.reason is not None
    assert "on fire" in job.reason.detail


async def test_R6_a_replayed_job_is_answered_and_its_tickets_are_done(world: World) -> None:
    tickets = await _give_up(world, "a", "b")
    before = await _states(world, tickets)
    [job] = await _dead(world)

    replayed = await _replay(world, job.job_id)
    between = await _states(world, tickets)
    await world.work()

    assert (replayed.questions, before) == (2, ["failed"] * 2)
    assert between == ["queued"] * 2
    assert await _states(world, tickets) == ["done"] * 2
    assert await _dead(world) == []


async def test_R6_a_replayed_job_has_all_its_deliveries_again(world: World) -> None:
    await _give_up(world, "a")
    for _ in range(2):
        [job] = await _dead(world)
        await _replay(world, job.job_id)
        job_ids = world.queue.take()
        given = [len((await world.claim(job_ids)).jobs) for _ in range(7)]

        assert given == [1] * 6 + [0]


async def test_R6_a_replayed_job_has_all_its_failures_again(world: World) -> None:
    await _give_up(world, "a")
    [job] = await _dead(world)
    await _replay(world, job.job_id)
    [job_id] = world.queue.take()

    queued = []
    for _ in range(3):
        [claimed] = (await world.claim([job_id])).jobs
        await world.report(claimed, [], final=False, reason=ServiceUnavailable("again").problem())
        queued.append(world.queue.take())

    assert queued == [[job_id], [job_id], []]


async def test_R6_what_is_not_dead_or_not_wanted_any_more_is_not_replayed(world: World) -> None:
    [posted] = await world.trainer.submit_logprobs("uniform", [world.submission("x", (3, 3))])
    [alive] = world.queue.take()
    await _give_up(world, "a")
    [job] = await _dead(world)
    # Somebody asks the same again: the question then belongs to that job.
    await world.trainer.submit_logprobs("uniform", [world.submission("again", (1, 2, 0))])

    for job_id, error in ((alive, Conflict), (job.job_id, Conflict), ("nothing", NotFound)):
        with pytest.raises(error):
            await _replay(world, job_id)
    assert posted.ticket.state == "queued"


async def test_R6_a_replay_is_on_record(world: World) -> None:
    await _give_up(world, "a")
    [job] = await _dead(world)
    await _replay(world, job.job_id)

    page = await world.clients["admin"].call("GET", "/v1/audit", reply=AuditPage)

    last = page.entries[-1]
    assert (last.actor, last.action, last.subject) == ("admin", "job.replay", job.job_id)
