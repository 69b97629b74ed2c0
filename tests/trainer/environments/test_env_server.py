"""Attempts in an environment of verifiers: one rollout each, always ended; rewards and failures."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from preceptor_trainer.environments.env_server.env_server import EnvServer
from preceptor_trainer.environments.env_server.face import Asked, Face
from preceptor_trainer.environments.environment import Dialogue

from .env_server import CountServer, counting

TASK = {"task": {"right": 7}}
PROBLEM: Any = SimpleNamespace(id="p", messages=[{"role": "user", "content": "Hi"}], payload=TASK)
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def dialogue(server: CountServer, **fields: Any) -> Dialogue:
    turns = {name: fields.pop(name) for name in ("max_turns", "turn_tokens") if name in fields}
    return Dialogue(environment=EnvServer(url=server.url, **{"timeout_s": 20.0} | fields), **turns)


async def test_an_attempt_is_played_scored_and_ended(play):
    async with counting() as server:
        played = await play(dialogue(server), ["1", "7"], row=TASK)
        await server.idle()

    [rollout] = played.rollouts
    assert rollout.problem.messages == [{"role": "user", "content": "Hi"}]
    assert [turn.content for turn in rollout.episode.turns] == ["1", "wrong", "7"]
    assert rollout.episode.reward == 2.0
    assert rollout.episode.environment == "count of verifiers 0.4.0"
    assert rollout.episode.details["rewards"] == {"right": {"score": 1.0, "weight": 2.0}}
    assert rollout.finish_reason == "stop"
    assert "wrong" in played.policy.decode(rollout.response_ids[~rollout.owned].tolist())
    assert server.cancelled == 0


async def test_every_attempt_is_one_rollout_of_the_server(play):
    async with counting() as server:
        played = await play(dialogue(server, sessions=2), lambda turn, i: "7", count=5, row=TASK)
        await server.idle()

    assert [r.episode.reward for r in played.rollouts] == [2.0] * 5
    assert len({r.episode.details["trace"] for r in played.rollouts}) == 5
    assert server.most == 2


async def test_attempts_that_find_no_place_come_after_those_that_did(play):
    async with counting(places=1) as server:
        played = await play(dialogue(server, timeout_s=2.0), lambda turn, i: "7", count=2, row=TASK)
        await server.idle()

    assert [r.episode.reward for r in played.rollouts] == [2.0] * 2


async def test_a_missing_reward_stays_missing(play):
    async with counting(scores=False) as server:
        played = await play(dialogue(server), ["7"], row=TASK)

    [rollout] = played.rollouts
    assert (rollout.episode.reward, rollout.failure) == (None, None)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"error": "boom"}, "the attempt failed: TaskError: boom"),
        ({"rewrites": True}, "it rewrote the conversation"),
        ({"agents": 2}, "several agents"),
    ],
)
async def test_what_the_environment_does_wrong_is_no_score(play, settings, why):
    async with counting(**settings) as server:
        played = await play(dialogue(server), ["1", "7"], row=TASK)
        await server.idle()

    [rollout] = played.rollouts
    assert why in rollout.failure
    assert rollout.episode.reward is None


@pytest.mark.parametrize("fields", [{"max_turns": 2}, {"turn_tokens": 2}])
async def test_an_attempt_that_is_cut_off_is_scored_by_the_environment(play, fields):
    async with counting() as server:
        played = await play(dialogue(server, **fields), ["1 and on and on", "2"], row=TASK)
        await server.idle()

    [rollout] = played.rollouts
    assert (rollout.finish_reason, rollout.failure, rollout.episode.reward) == ("length", None, 0.0)


async def test_tools_are_told_called_and_their_errors_shown_to_the_teacher(play):
    call = '<tool_call>{"name": "look", "arguments": {"at": 1}}</tool_call>'
    async with counting(tools=[LOOK]) as server:
        played = await play(dialogue(server), [call, "7"], row=TASK, max_tokens=300)
        await server.idle()

    [rollout] = played.rollouts
    assert '"name": "look"' in rollout.problem.messages[0]["content"]
    [sent] = server.asked[1]["messages"][1]["tool_calls"]
    assert sent["function"] == {"name": "look", "arguments": '{"at": 1}'}
    assert rollout.episode.text == "error: no such number"
    assert rollout.episode.reward == 2.0


async def test_a_run_that_is_stopped_leaves_no_rollout_at_the_server(play):
    async with counting() as server:
        begun = asyncio.Event()

        def says(turn: int, i: int) -> str:
            begun.set()
            return "1"

        playing = asyncio.create_task(play(dialogue(server), says, count=3, row=TASK))
        await begun.wait()
        playing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await playing
        await server.idle()


async def test_an_attempt_that_ends_leaves_nothing_at_the_address_that_is_asked():
    async with counting(agents=2) as server:
        running = EnvServer(url=server.url).connect(cast(Any, None), "r")
        session = await running.open(PROBLEM, "e")
        face = session.face
        session.traces.take({"trace": next(iter(session.traces.found)), "discard": True})
        later = Asked("later", {})
        session.inbox.put_nowait(later)

        await session.close()
        await server.idle()

        assert later.reply.done()
        assert face._inboxes == {}
        await running.close()


async def test_an_environment_that_is_closed_while_it_starts_opens_nothing_later():
    async with counting(health_s=0.2) as server:
        running = EnvServer(url=server.url).connect(cast(Any, None), "r")
        opening = asyncio.create_task(running.open(PROBLEM, "e"))
        await server.asked_for_health.wait()

        await running.close()

        with pytest.raises(asyncio.CancelledError):
            await opening
        assert running._start._task is None


async def test_a_server_that_dies_in_an_attempt_is_unreachable_and_no_score(play):
    async with counting() as server:

        def says(turn: int, i: int) -> str:
            server.socket.close(linger=0)
            return "1"

        played = await play(dialogue(server), says, row=TASK)

    assert "the connection to the server was lost" in played.rollouts[0].failure


async def test_a_server_that_is_not_there_is_unreachable(play):
    async with counting() as server:
        gone = dialogue(server, timeout_s=0.5)

    played = await play(gone, [], row=TASK)

    assert "no answer to health within 0.5 s" in played.rollouts[0].failure


async def test_a_server_that_asks_nothing_is_told_to_stop_and_is_no_score(play):
    async with counting(silent=True) as server:
        played = await play(dialogue(server, timeout_s=0.2, wait_s=0.4), [], row=TASK)
        await server.idle()

    assert "it asked the student nothing within 0.2 s" in played.rollouts[0].failure
    assert server.cancelled == 1


async def test_a_row_without_a_task_is_no_attempt(play):
    async with counting() as server:
        played = await play(dialogue(server), [])

    assert "its column `task` is NoneType" in played.rollouts[0].failure


async def test_the_address_answers_only_those_who_know_it_and_attempts_that_go_on():
    face = Face("127.0.0.1", 0)
    await face.start()
    origin, inbox = f"http://127.0.0.1:{face.port}", asyncio.Queue[Asked]()
    face.expect("s", inbox)
    path = "/chat/completions"
    try:
        async with httpx.AsyncClient() as http:
            other = await http.post(f"{origin}/x/v1{path}", json={})
            url = face.base_url(origin)
            no_object = await http.post(f"{url}{path}", json=[], headers={"X-Session-ID": "s"})
            body = {"stream": True}
            asking = asyncio.create_task(
                http.post(f"{url}{path}", json=body, headers={"X-Session-ID": "s"})
            )
            (await inbox.get()).answer("hello", [], "stop")
            streamed = await asking
    finally:
        await face.close()

    assert (other.status_code, no_object.status_code) == (404, 400)
    assert streamed.headers["content-type"] == "text/event-stream"
    assert '"content": "hello"' in streamed.text
    assert streamed.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"url": "http://x"}, "no address like tcp://"),
        ({"calls": "fence"}, "use `hermes` or `json`"),
        ({"listen": "here"}, "no HOST:PORT"),
        ({"timeout_s": 0.0}, "must be above 0"),
        ({"sessions": 0}, "at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, why):
    with pytest.raises(ValueError, match=why):
        EnvServer(**{"url": "tcp://x:1"} | fields)
