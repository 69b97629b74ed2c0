"""One report for all jobs of a call: each job is taken or refused by itself."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import event, text

from preceptor_clients.contract.errors import ProblemDetails
from preceptor_services.jobs.messages import ItemResult

from ..world import World


async def _jobs(world: World, count: int) -> tuple[list[str], list[Any]]:
    """Tickets and claimed jobs of so many questions, each in a group of its own."""
    submissions = [world.submission(f"k{n}", (1, 2 + n), group_id=f"g{n}") for n in range(count)]
    outcomes = await world.trainer.submit_logprobs("uniform", submissions, run="r")
    claims = await world.claim(world.queue.take())
    return [outcome.ticket.id for outcome in outcomes], list(claims.jobs)


async def _states(world: World, tickets: list[str]) -> list[str]:
    return [o.ticket.state for o in await world.trainer.collect_logprobs(tickets)]


def _answered(
    world: World, job: Any, **fields: Any
) -> tuple[Any, list[ItemResult], dict[str, Any]]:
    return job, [world.result(job, item) for item in job.items], fields


async def _rows(world: World, sql: str) -> list[Any]:
    async with world.database.read() as conn:
        return list((await conn.execute(text(sql))).scalars())


async def test_a_stale_job_does_not_touch_its_neighbours(world: World) -> None:
    tickets, jobs = await _jobs(world, 3)
    await world.claim([jobs[1].job_id], "d2")

    problems = await world.report_jobs(*(_answered(world, job) for job in jobs))

    assert [p and p.code for p in problems] == [None, "stale-fence", None]
    assert await _states(world, tickets) == ["done", "running", "done"]
    assert await _rows(world, "select count(*) from attempts where outcome = 'done'") == [2]


async def test_results_that_make_no_sense_do_not_touch_the_neighbours(world: World) -> None:
    tickets, jobs = await _jobs(world, 3)
    stranger = ItemResult(answer_key="0" * 64, accepted=True)

    problems = await world.report_jobs(
        _answered(world, jobs[0]), (jobs[1], [stranger], {}), _answered(world, jobs[2])
    )

    assert [p and p.code for p in problems] == [None, "invalid", None]
    assert await _states(world, tickets) == ["done", "running", "done"]


async def test_answers_and_jobs_given_back_travel_together(world: World) -> None:
    tickets, jobs = await _jobs(world, 2)
    busy = ProblemDetails(status=503, code="unavailable", detail="busy")

    problems = await world.report_jobs(
        _answered(world, jobs[0]), (jobs[1], [], {"final": False, "reason": busy})
    )

    assert problems == [None, None]
    assert await _states(world, tickets) == ["done", "queued"]
    assert world.queue.entries == [("uniform", jobs[1].job_id)]


async def test_a_job_named_twice_in_one_report_ends_once(world: World) -> None:
    tickets, [job] = await _jobs(world, 1)
    nothing = ProblemDetails(status=502, code="service-failed", detail="no answer")

    await world.report_jobs(
        _answered(world, job), (job, [], {"final": False, "reason": nothing}), name="d1"
    )

    assert await _states(world, tickets) == ["done"]
    assert world.queue.entries == []


async def test_a_question_in_two_jobs_of_a_report_gets_the_answer(world: World) -> None:
    asked = [
        world.submission("short", (1, 2), group_id="g", timeout_ms=1000),
        world.submission("long", (1, 3), group_id="g"),
    ]
    outcomes = await world.trainer.submit_logprobs("uniform", asked)
    [old] = (await world.claim(world.queue.take())).jobs
    world.clock.moved_s = 2.0
    await world.app.state.questions.sweeper.sweep()
    outcomes += await world.trainer.submit_logprobs("uniform", [world.submission("again", (1, 2))])
    [new] = (await world.claim(world.queue.take())).jobs
    no = ProblemDetails(status=502, code="service-failed", detail="no")
    failed = ItemResult(answer_key=new.items[0].answer_key, problem=no)

    await world.report_jobs(
        (old, [failed, world.result(old, old.items[1])], {}), _answered(world, new)
    )

    tickets = [outcome.ticket.id for outcome in outcomes]
    assert await _states(world, tickets) == ["failed", "done", "done"]


async def test_one_report_is_as_many_statements_for_sixteen_jobs_as_for_one(world: World) -> None:
    statements: list[str] = []
    event.listen(
        world.database.engine.sync_engine,
        "before_cursor_execute",
        lambda conn, cursor, sql, *rest: statements.append(sql),
    )

    async def count_for(number: int, first: int) -> int:
        submissions = [
            world.submission(f"k{n}", (3, n % 16, n // 16), group_id=f"g{n}")
            for n in range(first, first + number)
        ]
        await world.trainer.submit_logprobs("uniform", submissions)
        claims = await world.claim(world.queue.take())
        statements.clear()
        await world.report_jobs(*(_answered(world, job) for job in claims.jobs))
        return sum(not sql.startswith("SELECT jobs.service") for sql in statements)

    assert await count_for(16, 1) == await count_for(1, 0)


async def test_questions_that_come_at_once_share_transactions(world: World) -> None:
    begun: list[str] = []
    event.listen(
        world.database.engine.sync_engine,
        "before_cursor_execute",
        lambda conn, cursor, sql, *rest: begun.append(sql) if "IMMEDIATE" in sql else None,
    )
    asked = [
        world.trainer.submit_logprobs("uniform", [world.submission(f"k{n}", (4, n))])
        for n in range(12)
    ]
    outcomes = await asyncio.gather(*asked)

    assert [outcome.ticket.state for [outcome] in outcomes] == ["queued"] * 12
    assert len(begun) < 12
    assert len(world.queue.entries) == 12


async def test_metrics_tell_of_queues_and_of_calls(world: World) -> None:
    _, jobs = await _jobs(world, 2)
    await world.report_jobs(*(_answered(world, job) for job in jobs))
    await world.trainer.submit_logprobs("uniform", [world.submission("later")])

    text = (await world.clients["reader"].exchange("GET", "/metrics")).body.decode()

    assert 'preceptor_queue_depth{service="uniform"} 1.0' in text
    assert 'preceptor_queued_seconds_count{service="uniform"} 2.0' in text
    assert 'preceptor_call_questions_sum{service="uniform"} 2.0' in text
    assert 'preceptor_call_seconds_count{service="uniform"} 1.0' in text
