"""Rollouts that are chosen by hand bring along what is known about them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest

from preceptor_clients.contract.corrections import ItemView, NewItem
from preceptor_clients.contract.schemas import (
    LineageRecord,
    Message,
    Prompt,
    Records,
    RolloutRecord,
    RunRecord,
)
from preceptor_clients.http.connection import NO_RETRY
from preceptor_clients.http.corrections import AnnotatorClient, CorrectionsClient

from ..world import World


@pytest.fixture
def sqlite_url(database_url: str) -> str:
    """Every test of this file runs on both databases."""
    return database_url


class Desk:
    """One reviewer and an admin at a gateway with a source."""

    def __init__(self, world: World, admin: CorrectionsClient, reviewer: AnnotatorClient) -> None:
        self.world, self.admin, self.reviewer = world, admin, reviewer

    async def send(self, rollout_id: str) -> ItemView:
        """The recorded rollout as the reviewer sees it."""
        [taken] = await self.admin.add_rollouts("chosen", [rollout_id])
        assert taken.id is not None
        return await self.reviewer.item(taken.id)


def rollout(rollout_id: str, *, weights: str = "r/l0/0") -> RolloutRecord:
    return RolloutRecord(
        rollout_id=rollout_id,
        run="r",
        lineage="l0",
        step=0,
        problem_id="p",
        group_id="g",
        prompt=Prompt(messages=(Message(role="user", content="go"),)),
        response_ids=np.array([1, 2, 3], np.int32),
        response_text="x",
        behaviour_logprobs=np.zeros(3, np.float32),
        owned=np.ones(3, np.bool_),
        weights=weights,
        finish_reason="stop",
        sampling={},
    )


@pytest.fixture
async def desk(world: World) -> AsyncIterator[Desk]:
    """A run of two rollouts that nobody has judged yet; the version of `r-b` has no files."""
    await world.trainer.start_run(RunRecord(run="r", config={}, seed=1, versions={}))
    await world.trainer.start_lineage(LineageRecord(run="r", lineage="l0"))
    await world.publish("r/l0/0")
    await world.trainer.record(Records(rollouts=(rollout("r-a"), rollout("r-b", weights="r/l0/3"))))
    transport = httpx.ASGITransport(app=world.app)
    key = world.settings.keys["admin"].file.read_text()
    admin = CorrectionsClient("http://g", key, transport=transport, retry=NO_RETRY)
    issued = await admin.add_person("eve", "reviewer")
    eve = AnnotatorClient("http://g", issued.key, transport=transport, retry=NO_RETRY)
    yield Desk(world, admin, eve)
    await admin.aclose()
    await eve.aclose()


async def test_what_the_sources_said_travels_with_a_rollout_chosen_by_hand(desk: Desk) -> None:
    submission = await desk.world.feedback_submission("a")
    await desk.world.trainer.submit_feedback("executor", [submission], run="r")
    await desk.world.work()

    item = await desk.send("r-a")

    assert item.judged == "judged"
    [found] = item.feedback
    assert (found.source, found.kind, found.score) == ("executor", "execution", 0.0)
    assert found.text == "x is wrong, tests {'tests': [1, 2]}"


async def test_a_rollout_that_no_source_was_asked_about_is_judged_by_nobody(desk: Desk) -> None:
    item = await desk.send("r-a")

    assert (item.judged, item.feedback) == ("nobody", ())


async def test_a_rollout_of_a_version_without_files_has_its_tokens_too(desk: Desk) -> None:
    items = [await desk.send(rollout_id) for rollout_id in ("r-a", "r-b")]

    assert [item.has_tokens for item in items] == [True, True]


async def test_a_source_that_was_asked_and_gave_nothing_leaves_it_unknown(desk: Desk) -> None:
    submission = await desk.world.feedback_submission("a")
    await desk.world.trainer.submit_feedback("executor", [submission], run="r")

    item = await desk.send("r-a")

    assert (item.judged, item.feedback) == ("unknown", ())


async def test_a_response_from_elsewhere_without_feedback_is_not_said_to_be_unjudged(
    desk: Desk,
) -> None:
    prompt = Prompt(messages=(Message(role="user", content="?"),))
    sent = [
        NewItem(prompt=prompt, response_text="silent"),
        NewItem(prompt=prompt, response_text="said", judged_by_nobody=True),
    ]

    taken = await desk.admin.add_items("elsewhere", sent)
    seen = [await desk.reviewer.item(str(item.id)) for item in taken]

    assert [item.judged for item in seen] == ["unknown", "nobody"]
