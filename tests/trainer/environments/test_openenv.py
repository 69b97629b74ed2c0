"""Attempts in an OpenEnv environment: one session each, always closed; rewards and failures."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from preceptor_trainer.environments.environment import Dialogue
from preceptor_trainer.environments.openenv.openenv import OpenEnv
from preceptor_trainer.environments.openenv.socket import socket_url

from .openenv_server import GuessServer, guessing


def dialogue(server: GuessServer, **fields) -> Dialogue:
    given = {"actions": "field", "action_field": "guess", "observation_field": "said"}
    turns = {name: fields.pop(name) for name in ("max_turns", "turn_tokens") if name in fields}
    settings = given | {"timeout_s": 20.0} | fields
    return Dialogue(environment=OpenEnv(url=server.url, **settings), **turns)


SEED = {"seed": 7}


async def test_an_episode_is_played_rewarded_and_closed(play):
    async with guessing() as server:
        row = {**SEED, "split": "train", "index": 3, "question": "for judges"}
        played = await play(dialogue(server), ["1", "7"], row=row)
        await server.idle()

    [rollout] = played.rollouts
    assert rollout.problem.messages == [{"role": "user", "content": "Hi\n\nguess"}]
    assert [turn.content for turn in rollout.episode.turns] == ["1", "wrong", "7"]
    assert rollout.episode.reward == 0.75
    assert rollout.episode.environment == "guess 3"
    assert rollout.episode.details["rewards"] == [-0.25, 1.0]
    assert rollout.finish_reason == "stop"
    told = played.policy.decode(rollout.response_ids[~rollout.owned].tolist())
    assert "wrong" in told
    assert server.resets == [{"seed": 7, "split": "train", "index": 3, "episode_id": "r-0-0"}]


async def test_every_attempt_has_a_session_and_one_seed_for_its_group(play):
    async with guessing(capacity=2) as server:
        played = await play(dialogue(server, sessions=2), lambda turn, i: "7", count=5, row=SEED)
        await server.idle()

    assert [r.episode.reward for r in played.rollouts] == [1.0] * 5
    assert (server.opened, server.most) == (5, 2)
    assert {reset["seed"] for reset in server.resets} == {7}
    assert len({reset["episode_id"] for reset in server.resets}) == 5


async def test_a_server_that_others_fill_is_waited_for(play):
    async with guessing(capacity=1) as server:
        both = [play(dialogue(server), lambda turn, i: "7", row=SEED) for _ in range(2)]
        first, second = await asyncio.gather(*both)
        await server.idle()

    assert first.rollouts[0].episode.reward == second.rollouts[0].episode.reward == 1.0
    assert server.most == 1


async def test_attempts_that_find_no_place_come_after_those_that_did(play):
    async with guessing(capacity=2) as server:
        played = await play(dialogue(server), lambda turn, i: "7", count=5, row=SEED)
        await server.idle()

    assert [r.episode.reward for r in played.rollouts] == [1.0] * 5
    assert server.most == 2


async def test_a_server_that_stays_full_is_unreachable_and_no_score(play):
    async with guessing(capacity=0) as server:
        played = await play(dialogue(server, wait_s=0.0), [], row=SEED)

    [rollout] = played.rollouts
    assert "no session was free within 0 s" in rollout.failure
    assert server.refused >= 1


async def test_a_missing_reward_stays_missing(play):
    async with guessing(rewards=False) as server:
        played = await play(dialogue(server), ["7"], row=SEED)

    assert played.rollouts[0].episode.reward is None
    assert played.rollouts[0].failure is None


@pytest.mark.parametrize("at_reset", [None, 0.0])
async def test_an_attempt_without_an_action_has_the_reward_of_the_reset_or_none(play, at_reset):
    async with guessing(at_reset=at_reset) as server:
        by_json = dialogue(server, actions="json", action_field=None, max_turns=1)
        played = await play(by_json, ["no object"], row=SEED)
        cut = await play(dialogue(server, turn_tokens=2), ["7 and on and on"], row=SEED)

    assert played.rollouts[0].episode.reward == cut.rollouts[0].episode.reward == at_reset
    assert "does not end with an action" in played.rollouts[0].episode.text
    assert cut.rollouts[0].episode.text == "no turn was an action that the environment took"


async def test_a_turn_may_be_the_argument_of_one_tool(play):
    async with guessing() as server:
        played = await play(dialogue(server, action_tool="submit"), ["7"], row=SEED)

    assert played.rollouts[0].episode.reward == 1.0
    assert server.calls == [
        {"type": "call_tool", "tool_name": "submit", "arguments": {"guess": "7"}}
    ]


async def test_what_the_environment_refuses_is_read_and_told_to_the_teacher(play):
    async with guessing() as server:
        said = ["no object", '{"guess": 1}', 'I say {"guess": "boom"}', '{"guess": "7"}']
        by_json = dialogue(server, actions="json", action_field=None)
        played = await play(by_json, said, row=SEED, max_tokens=380)
        await server.idle()

    [rollout] = played.rollouts
    read = [turn.content for turn in rollout.episode.turns if turn.role == "user"]
    assert read == [
        "error: the turn does not end with an action, which is a JSON object",
        "error: Invalid message; guess: a text is needed",
        "error: it went boom",
    ]
    assert rollout.episode.text.splitlines() == [line.removeprefix("error: ") for line in read]
    assert rollout.episode.reward == 1.0
    assert json.dumps({"guess": {"type": "string"}}) in rollout.problem.messages[0]["content"]


async def test_an_episode_that_is_not_done_is_cut_off_after_its_last_step(play):
    async with guessing() as server:
        played = await play(dialogue(server, max_turns=2), ["1", "2"], row=SEED)
        await server.idle()

    [rollout] = played.rollouts
    assert (rollout.finish_reason, rollout.episode.reward) == ("length", -0.5)
    assert rollout.owned[-1]


@pytest.mark.parametrize(
    ("settings", "fields", "why"),
    [
        ({"dies_at": "2"}, {}, "close frame"),
        ({"silent_at": "2"}, {"timeout_s": 0.5}, "no answer to step within 0.5 s"),
    ],
)
async def test_a_server_that_is_lost_ends_that_attempt_alone(play, settings, fields, why):
    async with guessing(**settings) as server:
        says = lambda turn, i: "2" if i == 0 else "7"  # noqa: E731
        played = await play(dialogue(server, **fields), says, count=2, row=SEED)
        await server.idle()

    lost, other = played.rollouts
    assert why in lost.failure
    assert len(lost.response_ids)
    assert (other.failure, other.episode.reward) == (None, 1.0)


async def test_a_run_that_is_stopped_leaves_no_session(play):
    async with guessing() as server:
        begun = asyncio.Event()

        def says(turn: int, i: int) -> str:
            begun.set()
            return "never"

        quiet = dialogue(server)
        server.silent_at = "never"
        playing = asyncio.create_task(play(quiet, says, count=3, row=SEED))
        await begun.wait()
        assert server.active == 3
        playing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await playing
        await server.idle()


async def test_a_server_that_is_not_there_is_unreachable(play):
    async with guessing() as server:
        gone = dialogue(server, timeout_s=0.5)

    played = await play(gone, [], row=SEED)

    assert gone.environment.url in played.rollouts[0].failure
    np.testing.assert_array_equal(played.rollouts[0].response_ids, [])


def test_the_sockets_address_is_the_servers():
    assert socket_url("https://x.org/env/") == "wss://x.org/env/ws"
    assert socket_url("ws://x:1/ws") == "ws://x:1/ws"


@pytest.mark.parametrize("calls", ["fence", "react", "turn"])
def test_calls_without_names_of_arguments_are_refused(calls):
    with pytest.raises(ValueError, match=f"calls: '{calls}'.*use `hermes` or `json`"):
        OpenEnv(url="http://127.0.0.1:1", actions="tools", calls=calls)
