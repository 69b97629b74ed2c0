"""A service that was added at run time can be taken out, whatever it did."""

from __future__ import annotations

from typing import Any

import pytest

from preceptor_clients.contract.errors import Conflict, Forbidden, Invalid, NotFound
from preceptor_clients.contract.schemas import ServiceInfo
from preceptor_clients.http.registration import NewService

from ..world import EXPERT, World


class Says:
    """A service that says what it was told to say, or raises it."""

    def __init__(self, said: Any) -> None:
        self.said = said

    async def info(self, timeout_s: float = 1.0) -> ServiceInfo:
        if isinstance(self.said, Exception):
            raise self.said
        return self.said

    async def aclose(self) -> None:
        pass


async def _add(world: World, said: Any, **fields: Any) -> None:
    world.app.state.registry._connect = lambda url, key, addresses: Says(said)
    values = {"name": "later", "url": "http://127.0.0.1:1", "key_file": "service.key"}
    new = NewService(**(values | fields), self_test=False)
    await world.clients["admin"].call("POST", "/v1/experts", body=new)


async def _names(world: World) -> set[str]:
    return {service.name for service in (await world.trainer.experts()).services}


async def test_a_service_added_at_run_time_is_removed_and_its_questions_fail(world: World) -> None:
    await _add(world, EXPERT)
    await world.app.state.registry._entries["later"].heard.wait()
    [asked] = await world.trainer.submit_logprobs("later", [world.submission("a")])

    await world.clients["admin"].remove_expert("later")
    [outcome] = await world.trainer.collect_logprobs([asked.ticket.id])

    assert "later" not in await _names(world)
    assert outcome.ticket.state == "failed"
    assert "later was removed" in outcome.problem.detail
    with pytest.raises(NotFound):
        await world.clients["admin"].remove_expert("later")


async def test_a_removed_service_is_not_recalled_and_its_name_is_free(world: World) -> None:
    await _add(world, EXPERT)
    await world.clients["admin"].remove_expert("later")
    again = type(world.app.state.registry)(
        world.database, lambda *_: Says(EXPERT), world.clock, world.settings
    )
    again._watch = lambda entry: None

    await again.start()
    await _add(world, EXPERT)

    assert "later" not in again.names()
    assert "later" in await _names(world)


async def test_a_service_that_makes_the_asking_fail_is_asked_again_and_can_be_removed(
    world: World,
) -> None:
    await _add(world, RuntimeError("a fault of ours"))
    registry = world.app.state.registry
    entry = registry._entries["later"]
    client = Says(RuntimeError("again"))

    await registry._ask_guarded(entry, client)
    failed = entry.state
    client.said = EXPERT
    await registry._ask_guarded(entry, client)

    assert (failed, entry.state) == ("refused", "ready")
    assert not registry._tasks["later"].done()
    await world.clients["admin"].remove_expert("later")


async def test_services_of_the_settings_stay_and_others_keys_do_not_remove(world: World) -> None:
    with pytest.raises(Conflict, match="settings"):
        await world.clients["admin"].remove_expert("uniform")
    with pytest.raises(Forbidden):
        await world.trainer.remove_expert("uniform")


@pytest.mark.parametrize("key_file", ["hash.key", "trainer.key", "admin.key", "services"])
async def test_no_key_of_the_gateway_is_sent_to_a_service(world: World, key_file: str) -> None:
    with pytest.raises(Invalid) as refused:
        await _add(world, EXPERT, key_file=key_file)

    assert [e.field for e in refused.value.errors] == ["key_file"]
    assert "services" in refused.value.detail


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "169.254.169.254", "10.0.0.7", "2130706433", "0177.0.0.1", "[::ffff:127.0.0.1]"],
)
async def test_no_inner_address_is_contacted(world: World, host: str) -> None:
    with pytest.raises(Invalid) as refused:
        await _add(world, EXPERT, url=f"http://{host}:8101")

    assert [e.field for e in refused.value.errors] == ["url"]


async def test_the_broker_and_the_gateway_are_no_services(world: World) -> None:
    gateway = world.settings.gateway
    for port in (gateway.port, 6379):
        with pytest.raises(Invalid, match="own"):
            await _add(world, EXPERT, url=f"http://localhost:{port}")
