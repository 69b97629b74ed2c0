"""A checkpoint's weights reach the experts when it is registered."""

from __future__ import annotations

import pytest

from preceptor_clients.contract.errors import WeightsNotHere
from preceptor_clients.contract.schemas import WeightsOffer
from preceptor_clients.http.service import reading_timeout_s
from preceptor_services.registry.services import Registry

from ..world import World
from .test_inspection import Versioned, settled


class Recording(Versioned):
    """Keeps the versions that it was offered."""

    def __init__(self) -> None:
        super().__init__()
        self.offered: list[list[str]] = []

    async def offer_weights(self, offer: WeightsOffer) -> None:
        self.offered.append([manifest.version for manifest in offer.manifests])
        await super().offer_weights(offer)


class Refusing(Versioned):
    async def offer_weights(self, offer: WeightsOffer) -> None:
        raise WeightsNotHere("an ancestor is gone")


async def test_a_checkpoint_is_offered_with_its_ancestors_and_no_other_version_is(
    world: World,
) -> None:
    expert = Recording()
    await settled(world, expert)

    await world.publish("p/l0/0", checkpoint=True)
    await world.publish("p/l0/1", "p/l0/0")
    await world.publish("p/l0/2", "p/l0/1", checkpoint=True)

    # The world's own teacher is reached by the same client, so each offer comes twice.
    assert list(dict.fromkeys(map(tuple, expert.offered))) == [
        ("p/l0/0",),
        ("p/l0/0", "p/l0/1", "p/l0/2"),
    ]


async def test_an_expert_that_does_not_take_it_is_logged_and_no_error(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await settled(world, Refusing())

    manifest = await world.publish("p/l0/0", checkpoint=True)

    assert await world.trainer.weights("p/l0/0") == manifest
    assert "new did not take the offer of p/l0/0: an ancestor is gone" in caplog.text


async def test_experts_that_are_not_ready_or_have_no_versions_are_not_asked(world: World) -> None:
    registry: Registry = world.app.state.registry
    entry = await settled(world, Recording())

    ready = {one.name for one in registry.with_weights()}
    entry.state = "unreachable"

    assert ready - {one.name for one in registry.with_weights()} == {"new"}
    assert all(one.known_info().capabilities.weights for one in registry.with_weights())


async def test_a_deadline_grows_with_the_weights(world: World) -> None:
    small = await world.publish("p/l0/0")
    large = small.model_copy(update={"num_bytes": 32 << 30})

    assert reading_timeout_s([small.model_copy(update={"num_bytes": 1})]) >= 60
    assert reading_timeout_s([large]) > 10 * 60
    assert reading_timeout_s([small]) > 10 * 60  # of unknown size
    adapter = small.model_copy(update={"version": "p/l0/9", "num_bytes": 1, "base": large.version})
    assert reading_timeout_s([large, adapter]) >= reading_timeout_s([large])
