"""Weight versions: immutable, verified, under allowed folders only."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from preceptor_clients.contract.errors import Conflict, Invalid, NotFound
from preceptor_clients.contract.schemas import WantedWeights
from preceptor_clients.sdk.adapters import ADAPTER_FILES

from ..world import World


async def test_a_version_never_changes(world: World) -> None:
    manifest = await world.publish("p/l0/0")

    await world.trainer.register_weights(manifest)
    with pytest.raises(Conflict):
        await world.trainer.register_weights(manifest.model_copy(update={"checkpoint": True}))

    assert await world.trainer.weights("p/l0/0") == manifest


async def test_a_lineage_has_all_ancestors_first(world: World) -> None:
    await world.publish("p/l0/0")
    await world.publish("p/l0/1", "p/l0/0")
    await world.publish("p/l0/2", "p/l0/1")
    await world.publish("p/l1/2", "p/l0/1")

    chain = await world.trainer.weight_lineage("p/l1/2")

    assert [m.version for m in chain] == ["p/l0/0", "p/l0/1", "p/l1/2"]
    with pytest.raises(NotFound):
        await world.trainer.weight_lineage("p/l9/0")


async def test_files_must_be_what_they_say(world: World) -> None:
    manifest = await world.publish("p/l0/0")
    changes: dict[str, dict[str, Any]] = {
        "files.model.safetensors": {"files": {"model.safetensors": "0" * 64}},
        "files.gone": {"files": {**manifest.files, "gone": "0" * 64}},
        "files.../keys/hash.key": {"files": {**manifest.files, "../keys/hash.key": "0" * 64}},
        "files": {"files": {}},
        "uri": {"uri": "https://example.com/weights"},
        "parent": {"parent": "p/l0/7"},
    }

    for field, change in changes.items():
        with pytest.raises(Invalid) as refused:
            await world.trainer.register_weights(
                manifest.model_copy(update={"version": "p/l0/1", **change})
            )
        assert refused.value.errors[0].field == field


async def test_a_folder_outside_the_roots_is_refused_even_through_a_link(world: World) -> None:
    manifest = await world.publish("p/l0/0")
    link = world.folder / "weights" / "link"
    link.symlink_to(world.folder / "keys")

    for uri in ((world.folder / "keys").as_uri(), link.as_uri()):
        with pytest.raises(Invalid, match="not under an allowed folder"):
            await world.trainer.register_weights(
                manifest.model_copy(update={"version": "p/l0/1", "uri": uri})
            )


async def test_wishes_become_exact_versions(world: World) -> None:
    for step in (0, 1, 2):
        await world.publish(f"p/l0/{step}", f"p/l0/{step - 1}" if step else None)
    wishes = {
        "exact": WantedWeights(mode="exact", version="p/l0/0"),
        "at_least": WantedWeights(mode="at_least", version="p/l0/1"),
        "latest": WantedWeights(mode="latest", policy="p"),
    }

    await world.trainer.submit_logprobs(
        "teacher", [world.submission(key, weights=wish) for key, wish in wishes.items()]
    )
    claims = await world.claim(world.queue.take())
    asked = [item.prefix.weights for job in claims.jobs for item in job.items]

    assert {w.mode for w in asked} == {"exact"}
    assert sorted(w.version for w in asked) == ["p/l0/0", "p/l0/2"]


async def test_an_adapter_needs_its_files_and_a_whole_base(world: World) -> None:
    whole = await world.publish("p/l0/0")
    files: dict[str, str] = {}
    for name in ADAPTER_FILES:
        path = Path(whole.uri.removeprefix("file://")) / name
        path.write_bytes(name.encode())
        files[name] = hashlib.sha256(name.encode()).hexdigest()
    adapter = whole.model_copy(
        update={"version": "p/l0/1", "parent": "p/l0/0", "base": "p/l0/0", "files": files}
    )

    for field, change in {
        "base": {"base": "p/l0/7"},
        "files": {"files": whole.files},
    }.items():
        with pytest.raises(Invalid) as refused:
            await world.trainer.register_weights(adapter.model_copy(update=change))
        assert refused.value.errors[0].field == field
    await world.trainer.register_weights(adapter)
    with pytest.raises(Invalid, match="not registered as a whole version"):
        await world.trainer.register_weights(
            adapter.model_copy(update={"version": "p/l0/2", "base": "p/l0/1"})
        )

    assert (await world.trainer.weight_lineage("p/l0/1"))[1] == adapter
