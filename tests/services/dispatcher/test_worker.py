"""The whole path with a dispatcher in this process: what comes back for every mood of an expert."""

from __future__ import annotations

import asyncio
import hashlib
import time
from pathlib import Path

import numpy as np
import pytest
from dispatch_parts import bare_server, noted, query, submission, until, wanted
from moody import Moody
from typer.testing import CliRunner

from preceptor_clients.cli import expert as expert_command
from preceptor_clients.contract.schemas import WeightManifest
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.http.registration import NewService
from preceptor_clients.kit import request_ids
from preceptor_services.dispatcher import process
from preceptor_services.jobs.embedded_broker import free_port


async def test_answers_come_back_checked(make_deployment, moody) -> None:
    async with (
        moody() as url,
        make_deployment(moody=url) as gateway,
        gateway.dispatching(),
    ):
        outcomes = await gateway.ask(*(submission(f"k{i}", query("well", i)) for i in range(20)))

    for number, outcome in enumerate(outcomes):
        assert outcome.problem is None
        assert outcome.answer.token_ids_P.tolist() == [number, 0]
        np.testing.assert_allclose(np.exp(outcome.answer.own_logprobs_P), 0.01, rtol=1e-3)
        assert outcome.answer.tail_P == pytest.approx([0.96, 0.96], abs=1e-3)


async def test_jobs_of_several_callers_share_a_call(make_deployment, moody, moody_log) -> None:
    async with (
        moody() as url,
        make_deployment(moody=url) as gateway,
        gateway.dispatching(),
    ):
        asking = [asyncio.create_task(gateway.ask(submission("first", query("gated"))))]
        await until(lambda: noted(moody_log) == ["gated"])
        for i in range(10):
            asking.append(asyncio.create_task(gateway.ask(submission(f"k{i}", query("rest", i)))))
        await _until_depth(gateway, 11)
        moody_log.with_name("gate").touch()
        await asyncio.gather(*asking)

    assert noted(moody_log)[1:] == [" ".join(["rest"] * 10)]


async def test_groups_in_deterministic_mode_are_calls_of_their_own_in_order(
    make_deployment, moody, moody_log
) -> None:
    async with (
        moody(delay_s=0.02) as url,
        make_deployment(moody=url) as gateway,
        gateway.dispatching(),
    ):
        asked = [
            submission(f"{group}{i}", query(f"g{group}", i, group_id=f"g{group}"))
            for group in range(6)
            for i in range(3)
        ]
        await gateway.ask(*asked, batching="group")

    assert noted(moody_log) == [f"g{group} g{group} g{group}" for group in range(6)]


async def test_nonsense_is_refused_and_its_neighbours_stand(make_deployment, moody) -> None:
    async with (
        moody() as url,
        make_deployment(moody=url) as gateway,
        gateway.dispatching(),
    ):
        well, nonsense, refused = await gateway.ask(
            submission("a", query("well")),
            submission("b", query("nonsense")),
            submission("c", query("refuse")),
        )

    assert well.answer is not None
    assert nonsense.problem.code == "answer-refused"
    assert nonsense.problem.errors[0].field == "answer.token_ids_P"
    assert (refused.problem.code, refused.problem.status) == ("invalid", 422)


async def test_missing_weights_are_brought_along(
    make_deployment, moody, moody_log, tmp_path: Path
) -> None:
    folder = tmp_path / "weights" / "p" / "main"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()

    def manifest(step: int) -> WeightManifest:
        return WeightManifest(
            version=f"p/main/{step}",
            parent=f"p/main/{step - 1}" if step else None,
            uri=folder.as_uri(),
            files={"model.safetensors": sha256},
            vocab_fingerprint="ab" * 32,
        )

    async with (
        moody(weights=True) as url,
        make_deployment(moody=url) as gateway,
        gateway.dispatching(),
    ):
        for step in range(2):
            await gateway.client.register_weights(manifest(step))
        [outcome] = await gateway.ask(submission("a", query("well", weights=wanted("p/main/1"))))

    assert outcome.answer.weights_before == "p/main/1"
    assert noted(moody_log) == ["well", "offered p/main/0 p/main/1", "well"]


async def test_R6_a_job_that_breaks_its_expert_is_given_up_and_the_others_go_on(
    make_deployment, moody, moody_log
) -> None:
    async with (
        moody() as url,
        make_deployment(moody=url) as gateway,
        gateway.dispatching(),
    ):
        poison = asyncio.create_task(gateway.ask(submission("p", query("broken"))))
        await until(lambda: noted(moody_log).count("broken") == 1)
        [well] = await gateway.ask(submission("w", query("well")))
        [given_up] = await poison

        assert well.answer is not None
        assert given_up.problem.code in ("service-failed", "error")
        assert noted(moody_log).count("broken") == 3

        # A new question about the same is a new chance.
        again = await gateway.client.submit_logprobs("moody", [submission("q", query("broken"))])
        assert again[0].problem is None
        await until(lambda: noted(moody_log).count("broken") > 3)


async def test_R7_a_hanging_expert_meets_the_deadline_and_the_worker_goes_on(
    make_deployment, moody
) -> None:
    async with (
        moody() as url,
        make_deployment(moody=url) as gateway,
        gateway.dispatching(),
    ):
        started = time.monotonic()
        [hanging] = await gateway.ask(submission("h", query("hang", timeout_ms=1000)))
        took_s = time.monotonic() - started
        [well] = await gateway.ask(submission("w", query("well")))

    assert hanging.problem.code == "deadline-exceeded"
    assert took_s < 10.0
    assert well.answer is not None


@pytest.mark.parametrize("body", ["cut", "reset", "not-json", "zstd"])
async def test_R7_an_expert_that_dies_in_its_reply_is_a_clear_problem(
    make_deployment, body: str
) -> None:
    async with (
        _half_expert(body) as url,
        make_deployment(moody=url) as gateway,
        gateway.dispatching(),
    ):
        [outcome] = await gateway.ask(submission("a", query("well", timeout_ms=20_000)))

    assert outcome.problem.code in ("service-failed", "unavailable")
    assert outcome.answer is None


async def test_R8_cancelling_a_running_call_closes_its_connection(
    make_deployment, moody, moody_log
) -> None:
    async with (
        moody() as url,
        make_deployment(moody=url) as gateway,
        gateway.dispatching(),
    ):
        [posted] = await gateway.client.submit_logprobs("moody", [submission("h", query("hang"))])
        await until(lambda: "hang" in noted(moody_log))
        await gateway.client.cancel(posted.ticket.id)
        await until(lambda: "aborted hang" in noted(moody_log))
        [outcome] = await gateway.client.collect_logprobs([posted.ticket.id])
        await _until_depth(gateway, 0)

    assert outcome.ticket.state == "cancelled"


async def test_R8_cancelled_questions_in_the_queue_are_never_asked(
    make_deployment, moody, moody_log
) -> None:
    async with moody() as url, make_deployment(moody=url) as gateway:
        await gateway.client.wait_ready(10)
        posted = await _posted(gateway, [submission(f"k{i}", query(f"m{i}")) for i in range(10)])
        for outcome in posted[:5]:
            await gateway.client.cancel(outcome.ticket.id)
        async with gateway.dispatching():
            await _until_depth(gateway, 0)

    assert sorted(" ".join(noted(moody_log)).split()) == ["m5", "m6", "m7", "m8", "m9"]


async def test_R11_a_hundred_equal_questions_are_asked_once(
    make_deployment, moody, moody_log
) -> None:
    async with (
        moody(delay_s=0.2) as url,
        make_deployment(moody=url) as gateway,
        gateway.dispatching(),
    ):
        answered = await asyncio.gather(
            *(gateway.ask(submission(f"k{i}", query("same"))) for i in range(100))
        )

    assert noted(moody_log) == ["same"]
    assert len({outcome.answer.model_dump_json() for [outcome] in answered}) == 1


async def test_R12_a_stopping_dispatcher_finishes_its_call_and_gives_back_the_rest(
    make_deployment, moody, moody_log
) -> None:
    async with moody(max_batch=1) as url, make_deployment(moody=url) as gateway:
        async with gateway.dispatching(grace_s=20.0) as stopping:
            posted = await _posted(
                gateway, [submission(f"k{i}", query(f"gated{i}", i)) for i in range(4)]
            )
            await until(lambda: bool(noted(moody_log)))
            stopping.set()
            moody_log.with_name("gate").touch()
        num_asked_by_first = len(noted(moody_log))
        async with gateway.dispatching(lease_s=60.0):
            outcomes = await gateway.client.collect_logprobs(
                [outcome.ticket.id for outcome in posted], wait_s=20.0
            )

    assert num_asked_by_first < 4
    assert all(outcome.answer is not None for outcome in outcomes)
    assert sorted(noted(moody_log)) == ["gated0", "gated1", "gated2", "gated3"]


async def test_late_answers_arrive_at_their_tickets(make_deployment, moody, tmp_path) -> None:
    port = free_port()
    late = {
        "late_url": f"http://127.0.0.1:{port}",
        "late_key_file": str(tmp_path / "keys" / "expert.key"),
    }
    async with (
        moody(**late) as url,
        make_deployment(moody=url, port=port) as gateway,
        gateway.dispatching(),
    ):
        [outcome] = await gateway.ask(submission("a", query("later")), run="r")
        assert outcome.ticket.state == "waiting"

        arrived = await _arrivals(gateway, "r")
        [late_outcome] = await gateway.client.collect_logprobs([outcome.ticket.id])

    assert [arrival.idempotency_key for arrival in arrived] == ["a"]
    assert late_outcome.answer is not None


async def test_an_expert_that_comes_late_is_not_asked_what_is_over(
    make_deployment, moody, moody_log, tmp_path
) -> None:
    port = free_port()
    async with moody(port=port) as url, make_deployment(moody=url) as gateway:
        await gateway.client.wait_ready(20)
    async with make_deployment(moody=url) as gateway, gateway.dispatching():
        over = await gateway.ask(submission("a", query("over", timeout_ms=700)))
        async with moody(port=port):
            [well] = await gateway.ask(submission("b", query("well")))

    assert over[0].problem.code == "deadline-exceeded"
    assert well.answer is not None
    assert noted(moody_log) == ["well"]


async def test_a_promise_without_an_end_is_refused(make_deployment, moody, monkeypatch) -> None:
    declared = Moody.info

    def undeclared(self):
        info = declared(self)
        capabilities = info.capabilities.model_copy(update={"late_s": None})
        return info.model_copy(update={"capabilities": capabilities})

    monkeypatch.setattr(Moody, "info", undeclared)
    async with moody() as url, make_deployment(moody=url) as gateway, gateway.dispatching():
        [outcome] = await gateway.ask(submission("a", query("later")))

    assert outcome.problem is not None
    assert "late_s" in outcome.problem.detail


async def test_an_expert_added_at_run_time_is_served(
    make_deployment, moody, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(process, "_DIRECTORY_S", 0.05)
    async with (
        moody(name="newcomer") as url,
        make_deployment() as gateway,
        gateway.dispatching(),
    ):
        new = NewService(name="newcomer", url=url, key_file="service.key")
        admin = (tmp_path / "keys" / "admin.key").read_text().strip()
        async with GatewayClient(str(gateway.client._url), admin) as owner:
            await owner.call("POST", "/v1/experts", body=new, media_type="application/json")
        [outcome] = await gateway.client.logprobs(
            "newcomer", [submission("a", query("well"))], timeout_s=30
        )

    assert outcome.answer is not None


async def test_an_expert_that_was_added_under_a_wrong_address_is_moved(
    make_deployment, moody, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(process, "_DIRECTORY_S", 0.05)
    nowhere = f"http://127.0.0.1:{free_port()}"
    async with (
        moody(name="newcomer") as url,
        make_deployment() as gateway,
        gateway.dispatching(),
    ):

        async def add(address: str, *options: str) -> tuple[int, str]:
            words = ["add", "newcomer", address, "--service-key", "service.key", *options]
            words += ["--gateway", str(gateway.client._url)]
            words += ["--key-file", str(tmp_path / "keys" / "admin.key")]
            done = await asyncio.to_thread(CliRunner().invoke, expert_command.app, words)
            return done.exit_code, done.output

        lost = await add(nowhere, "--wait", "0")
        taken = await add(url)
        moved = await add(url, "--replaces")
        [outcome] = await gateway.client.logprobs(
            "newcomer", [submission("a", query("well"))], timeout_s=30
        )

    assert lost[0] == 1
    assert "newcomer is unreachable" in lost[1]
    assert taken[0] == 2
    assert "named already" in taken[1]
    assert moved == (0, "newcomer is ready, version 1\n")
    assert outcome.answer is not None


async def _arrivals(gateway, run: str):
    async with asyncio.timeout(20):
        while not (page := await gateway.client.arrivals(run)).arrivals:
            await asyncio.sleep(0.05)
    return page.arrivals


async def _posted(gateway, submissions):
    """Posts one by one, so that each question is a job of its own."""
    return [(await gateway.client.submit_logprobs("moody", [one]))[0] for one in submissions]


async def _until_depth(gateway, depth: int) -> None:
    async with asyncio.timeout(20):
        while await gateway.queue.depth("moody") != depth:
            await asyncio.sleep(0.02)


def _half_expert(body: str):
    """A bare TCP server that introduces itself and then fails in the middle of every answer."""
    info = Moody(log="/dev/null").info().model_dump_json().encode()
    replies = {
        "cut": (b"application/json", b'{"results": [', 1000),
        "reset": (b"application/json", b"", 1000),
        "not-json": (b"application/json", b"<html>oops</html>", 17),
        "zstd": (b"application/vnd.preceptor.frame", b"PRCP\x01\x01\xff\xff\xff\xff(\xb5/\xfd", 14),
    }
    media_type, content, declared = replies[body]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET"):
            length, kind, sent = len(info), b"application/json", info
        else:
            length, kind, sent = declared, media_type, content
        head_out = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: %s\r\n" % kind
        writer.write(head_out + b"content-length: %d\r\n\r\n" % length + sent)
        await writer.drain()
        if body == "reset" and not head.startswith(b"GET"):
            writer.transport.abort()

    return bare_server(answer)


async def test_one_request_id_goes_from_the_trainer_to_the_expert(make_deployment, moody) -> None:
    seen: list[str | None] = []

    class Listening(Moody):
        async def logprobs(self, queries, answer_keys):
            seen.append(request_ids.current())
            return await super().logprobs(queries, answer_keys)

    async with (
        moody(cls=Listening) as url,
        make_deployment(moody=url) as gateway,
        gateway.dispatching(),
    ):
        with request_ids.serving("one-request"):
            await gateway.ask(submission("k", query("well")))

    assert seen == ["one-request"]
