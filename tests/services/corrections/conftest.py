"""The real gateway on each database, with real people's clients; only time is moved by hand."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from preceptor_clients.corrections import NewItem, Role, RoundSettings
from preceptor_clients.corrections_client import AnnotatorClient, CorrectionsClient
from preceptor_clients.http import NO_RETRY, GatewayClient
from preceptor_clients.schemas import Message, Prompt
from preceptor_services.blobs import LocalBlobs
from preceptor_services.config import ServiceSettings, Settings
from preceptor_services.gateway.app import create_app
from preceptor_services.gateway.clock import ServerClock
from preceptor_services.store.database import Database

VOCAB = "ab" * 32
SCOPES = ("trainer", "dispatcher", "expert", "reader", "admin")


class QuietQueue:
    """A broker that keeps job ids for the test to take."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []

    async def put_all(self, service: str, entries: Any) -> int:
        self.entries += [(service, entry.job_id) for entry in entries]
        return len(entries)

    async def depth(self, service: str) -> int:
        return 10_000

    async def announce_cancel(self, job_ids: Any) -> None:
        pass

    async def ping(self) -> bool:
        return True


class MovedClock(ServerClock):
    """Server time that a test can move on."""

    moved_s = 0.0

    def now(self) -> float:
        return super().now() + self.moved_s


@dataclass
class Office:
    """One gateway, and the people who work at it."""

    app: FastAPI
    settings: Settings
    database: Database
    queue: QuietQueue
    clock: MovedClock
    folder: Path
    closing: list[Any] = field(default_factory=list)

    def transport(self) -> httpx.ASGITransport:
        return httpx.ASGITransport(app=self.app)

    def tool(self, scope: str = "admin") -> CorrectionsClient:
        key = self.settings.keys[scope].file.read_text()
        return self._kept(
            CorrectionsClient("http://g", key, transport=self.transport(), retry=NO_RETRY)
        )

    def gateway_client(self, scope: str = "trainer") -> GatewayClient:
        key = self.settings.keys[scope].file.read_text()
        return self._kept(
            GatewayClient("http://g", key, transport=self.transport(), retry=NO_RETRY)
        )

    async def person(self, name: str, role: Role = "annotator") -> AnnotatorClient:
        issued = await self.tool().add_person(name, role)
        return self.annotator(issued.key)

    def annotator(self, key: str) -> AnnotatorClient:
        return self._kept(
            AnnotatorClient("http://g", key, transport=self.transport(), retry=NO_RETRY)
        )

    async def fill(self, count: int, round_name: str = "r", **rules: Any) -> list[str]:
        """A round of `count` items; singles unless the rules say otherwise."""
        tool = self.tool()
        await tool.put_round(round_name, RoundSettings(**({"double_share": 0.0} | rules)))
        taken = await tool.add_items(round_name, [new_item(i) for i in range(count)])
        return [item.id for item in taken if item.id is not None]

    def new_item(self, number: int, text: str | None = None, **fields: Any) -> NewItem:
        return new_item(number, text, **fields)

    def _kept(self, client: Any) -> Any:
        self.closing.append(client)
        return client


def new_item(number: int, text: str | None = None, **fields: Any) -> NewItem:
    """Item `number`, whose ids are the bytes of its text and an end token."""
    text = f"answer {number}" if text is None else text
    values: dict[str, Any] = {
        "prompt": Prompt(messages=(Message(role="user", content=f"question {number}"),)),
        "response_text": text,
        "response_ids": np.array([*text.encode(), 257], np.int32),
        "vocab_fingerprint": VOCAB,
    }
    return NewItem(**(values | fields))


def make_settings(folder: Path) -> Settings:
    """A deployment whose keys are made of their own names."""
    (folder / "keys").mkdir(exist_ok=True)
    for name in (*SCOPES, "hash", "service"):
        (folder / "keys" / f"{name}.key").write_text(f"{name}-{'k' * 40}")
    keys = {s: {"file": folder / "keys" / f"{s}.key", "scopes": [s]} for s in SCOPES}
    gateway = {
        "hash_key_file": folder / "keys" / "hash.key",
        "blobs": folder / "blobs",
        "weights_roots": [folder / "weights"],
    }
    return Settings.model_validate({"gateway": gateway, "keys": keys})


@contextlib.asynccontextmanager
async def open_office(folder: Path, database_url: str, **parts: Any) -> AsyncGenerator[Office]:
    """A running gateway."""
    settings = parts.pop("settings", None) or make_settings(folder)
    database = Database.open(database_url)
    queue, clock = QuietQueue(), MovedClock()
    blobs = LocalBlobs(settings.gateway.blobs)
    app = create_app(settings, database, blobs, queue, clock=clock, **parts)
    office = Office(app, settings, database, queue, clock, folder)
    try:
        async with app.router.lifespan_context(app):
            yield office
            for client in office.closing:
                await client.aclose()
    finally:
        await database.aclose()


@pytest.fixture
async def office(tmp_path: Path, database_url: str) -> AsyncIterator[Office]:
    """A running gateway on each database."""
    async with open_office(tmp_path, database_url) as office:
        yield office


@pytest.fixture
async def small_office(tmp_path: Path) -> AsyncIterator[Office]:
    """The same on SQLite alone, for what no database can change."""
    async with open_office(tmp_path, f"sqlite+aiosqlite:///{tmp_path}/store.db") as office:
        yield office


@pytest.fixture
def new_items() -> Any:
    """Makes items by number."""
    return new_item


@pytest.fixture
def open_town_office() -> Any:
    """Opens an office on SQLite whose one expert, `people`, is what `connect` makes."""

    @contextlib.asynccontextmanager
    async def opened(folder: Path, connect: Any) -> AsyncGenerator[Office]:
        settings = make_settings(folder)
        service = ServiceSettings(url="http://nowhere", key_file=folder / "keys" / "service.key")
        settings = settings.model_copy(update={"experts": {"people": service}})
        url = f"sqlite+aiosqlite:///{folder}/store.db"
        async with open_office(folder, url, settings=settings, connect=connect) as office:
            yield office

    return opened
