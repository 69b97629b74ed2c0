"""A step that is larger than one request is sent in parts, and is one step all the same."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from preceptor_clients.contract.deployment import DeployedGateway
from preceptor_clients.contract.errors import Invalid, TooLarge
from preceptor_clients.contract.fingerprint import content_hash
from preceptor_clients.contract.frame import DEFAULT_LIMITS
from preceptor_clients.contract.parts import parts_of, parts_of_credits
from preceptor_clients.contract.schemas import (
    Credit,
    LineageRecord,
    Prompt,
    Records,
    RolloutRecord,
    RunRecord,
    StepRecord,
    TargetRecord,
)
from preceptor_clients.http.connection import NO_RETRY
from preceptor_clients.http.gateway import GatewayClient
from preceptor_services.store.sql import in_parts

from ..services.corrections.conftest import Office
from ..services.world import World

MiB = 1 << 20
DEFAULT_BODY_BYTES: int = DeployedGateway.model_fields["max_body_bytes"].default


def rollout(name: str, num_tokens: int = 3) -> RolloutRecord:
    return RolloutRecord(
        rollout_id=name,
        run="r",
        lineage="l0",
        step=0,
        problem_id="p",
        group_id="g",
        prompt=Prompt(ids=np.array([1], np.int32)),
        response_ids=np.ones(num_tokens, np.int32),
        response_text="abc",
        behaviour_logprobs=np.full(num_tokens, -1.0, np.float32),
        owned=np.ones(num_tokens, np.bool_),
        weights="r/l0/0",
        finish_reason="stop",
        sampling={},
    )


def target(name: str, num_tokens: int, top_k: int = 32) -> TargetRecord:
    arrays: dict[str, Any] = {
        "ids_TK": np.zeros((num_tokens, top_k), np.int32),
        "logprobs_TK": np.full((num_tokens, top_k), -3.0, np.float32),
        "components": [],
    }
    return TargetRecord(
        target_id=f"t-{name}",
        rollout_id=name,
        builder_version="1",
        settings={},
        answer_ids=(),
        feedback_ids=(),
        arrays=arrays,
        content_hash=content_hash(arrays),
    )


def step(names: list[str], num_tokens: int = 3) -> StepRecord:
    zeros = np.zeros(num_tokens, np.float32)
    return StepRecord(
        run="r",
        lineage="l0",
        step=0,
        loss=1.0,
        metrics={},
        consumed=tuple(
            Credit(rollout_id=name, costs=zeros, advantages=zeros, logprobs=zeros) for name in names
        ),
        weights_before="r/l0/0",
        weights_after="r/l0/1",
    )


async def start(world: World) -> None:
    await world.trainer.start_run(RunRecord(run="r", config={}, seed=1, versions={}))
    await world.trainer.start_lineage(LineageRecord(run="r", lineage="l0"))
    await world.publish("r/l0/0")


async def test_targets_of_several_bodies_arrive_and_a_repeat_changes_nothing(world: World) -> None:
    await start(world)
    names = [f"ro{n}" for n in range(12)]
    # 3 MiB together; this gateway takes 1 MiB at a time.
    records = Records(
        rollouts=tuple(map(rollout, names)), targets=tuple(target(n, 1024) for n in names)
    )

    first = await world.trainer.record(records)
    again = await world.trainer.record(records)

    assert (first.new, again.new) == (24, 0)
    assert [place.id for place in await world.trainer.targets("r")] == sorted(
        f"t-{name}" for name in names
    )


async def test_one_record_that_is_too_large_is_refused_by_itself(world: World) -> None:
    await start(world)
    names = ["ro0", "ro1", "ro2"]
    await world.trainer.record(Records(rollouts=tuple(map(rollout, names))))
    sizes = {"ro0": 8, "ro1": 8192, "ro2": 8}

    with pytest.raises(TooLarge):
        await world.trainer.record(Records(targets=tuple(target(n, sizes[n]) for n in names)))

    await world.trainer.record(Records(targets=(target("ro2", 8),)))
    assert {place.id for place in await world.trainer.targets("r")} == {"t-ro0", "t-ro2"}


async def test_credits_that_go_ahead_make_one_step(world: World) -> None:
    await start(world)
    names = [f"ro{n}" for n in range(4100)]
    await world.trainer.record(Records(rollouts=tuple(map(rollout, names))))

    await world.trainer.record_step(step(names))
    await world.trainer.record_step(step(names))

    used = await world.trainer.accounting("r")
    assert (used.steps, used.consumed, used.consumed_twice) == (1, 4100, 0)
    assert len(parts_of_credits(step(names).consumed)) == 3


async def test_a_step_whose_part_is_missing_is_refused_and_may_come_again(world: World) -> None:
    await start(world)
    await world.trainer.record(Records(rollouts=(rollout("ro0"),)))
    lost = step([]).model_copy(update={"consumed_in": ("ab" * 32,)})

    with pytest.raises(Invalid, match="no blob") as refused:
        await world.trainer.record_step(lost)
    await world.trainer.record_step(step(["ro0"]))

    assert refused.value.errors[0].field == "consumed_in[0]"
    assert (await world.trainer.accounting("r")).consumed == 1


class Weighing(httpx.ASGITransport):
    """The gateway itself, with a note of how large each body was."""

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        self.bodies: list[int] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(len(await request.aread()))
        return await super().handle_async_request(request)


@pytest.mark.parametrize("gateway_options", [{"max_body_bytes": DEFAULT_BODY_BYTES}])
async def test_600_thousand_answered_positions_in_one_step_are_recorded_under_default_limits(
    world: World,
) -> None:
    await start(world)
    names = [f"ro{n}" for n in range(600)]
    transport = Weighing(world.app)
    key = world.settings.keys["trainer"].file.read_text()

    async with GatewayClient("http://g", key, transport=transport, retry=NO_RETRY) as gateway:
        await gateway.record(Records(rollouts=tuple(rollout(n, 1000) for n in names)))
        recorded = await gateway.record(Records(targets=tuple(target(n, 1000) for n in names)))
        await gateway.record_step(step(names, 1000))
        used = await gateway.accounting("r")
        kept = await gateway.trace("t-ro599", 999)

    assert recorded.new == 600
    assert (used.steps, used.consumed, used.consumed_twice) == (1, 600, 0)
    assert kept.rollout_id == "ro599"
    assert sum(transport.bodies) > 600_000 * 32 * 8
    assert max(transport.bodies) < min(DEFAULT_BODY_BYTES, DEFAULT_LIMITS.body_bytes)


def test_small_records_stay_one_request() -> None:
    records = Records(rollouts=(rollout("a"),), targets=(target("a", 3),))

    assert parts_of(records) == [records]


def test_no_statement_has_more_keys_than_a_database_takes() -> None:
    keys = [str(n) for n in range(100_000)]

    parts = in_parts(keys)

    assert [key for part in parts for key in part] == keys
    assert max(map(len, parts)) < 32_767


async def test_items_of_several_bodies_are_sent_in_order(office: Office) -> None:
    tool = office.tool()
    # 20 MB of text; the header of a frame has at most 16 MiB.
    new = [office.new_item(n, f"{n} " + "é" * 1_000_000, response_ids=None) for n in range(10)]

    taken = await tool.add_items("r", new)

    assert [one.state for one in taken] == ["new"] * 10
    assert len({one.id for one in taken}) == 10
