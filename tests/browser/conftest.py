"""A real Chromium and a real gateway process; tests press keys and look at what is shown."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from preceptor_clients.contract.corrections import NewItem, RoundSettings
from preceptor_clients.contract.schemas import Message, Prompt
from preceptor_clients.http.corrections import AnnotatorClient, CorrectionsClient

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# A busy machine is slow; how fast the page is, benchmarks/annotator_page.py says.
expect.set_options(timeout=60_000)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--pictures` writes the pictures of the docs."""
    parser.addoption("--pictures", action="store_true", help="write the pictures of the docs")


@dataclass
class Office:
    """One gateway process and its people."""

    folder: Path
    port: int
    has_demo: bool = False
    process: subprocess.Popen[bytes] | None = None
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def page_url(self) -> str:
        return f"{self.url}/corrections/"

    async def start(self) -> None:
        command = [sys.executable, str(HERE / "office.py"), str(self.folder), str(self.port)]
        self.process = subprocess.Popen(command + ["demo"] * self.has_demo)
        async with httpx.AsyncClient() as client:
            while True:
                assert self.process.poll() is None, "the office process ended"
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get(f"{self.url}/readyz")).status_code == 200:
                        break
                await asyncio.sleep(0.1)
        self.keys = json.loads((self.folder / "people.json").read_text())

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    async def add(
        self, items: list[NewItem], round_name: str = "demo-1", **rules: Any
    ) -> list[str]:
        """Puts items into a round; a new round where rules are named."""
        async with CorrectionsClient(self.url, f"admin-{'k' * 40}") as admin:
            if rules:
                await admin.put_round(round_name, RoundSettings(**({"double_share": 0.0} | rules)))
            taken = await admin.add_items(round_name, items)
        return [item.id for item in taken if item.id is not None]

    async def person(self, name: str, role: str = "annotator") -> str:
        """A new person's key."""
        async with CorrectionsClient(self.url, f"admin-{'k' * 40}") as admin:
            return (await admin.add_person(name, role)).key  # type: ignore[arg-type]

    def client(self, key: str) -> AnnotatorClient:
        return AnnotatorClient(self.url, key)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture
def has_demo() -> bool:
    """Whether the office begins with a rollout that experts have answered on."""
    return False


@pytest_asyncio.fixture(loop_scope="session")
async def office(tmp_path: Path, has_demo: bool) -> AsyncIterator[Office]:
    """A gateway process with its own database."""
    office = Office(tmp_path, _free_port(), has_demo)
    await office.start()
    yield office
    office.kill()


class MakeItem(Protocol):
    """Makes an item from outside any run."""

    def __call__(self, number: int, text: str, **fields: Any) -> NewItem: ...


@pytest.fixture
def new_item() -> MakeItem:
    """Makes small items from outside any run."""

    def made(number: int, text: str, **fields: Any) -> NewItem:
        message = Message(role="user", content=f"What is {number} times seven, in words?")
        values: dict[str, Any] = {"prompt": Prompt(messages=(message,)), "response_text": text}
        return NewItem(**(values | fields))

    return made


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's executable: Debian's, or the one that the environment names."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.fail("no Chromium: `apt-get install chromium`, or name one in CHROMIUM")
    return path


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    """One browser for all tests."""
    async with async_playwright() as playwright:
        # Inside containers there is no user namespace for Chromium's own sandbox.
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        await browser.close()


@dataclass
class Visit:
    """One tab, with everything that went wrong in it."""

    page: Page
    context: BrowserContext
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    """Requests to any other origin."""


class OpenTab(Protocol):
    """Opens one tab; without a key it shows the sign-in."""

    async def __call__(
        self,
        key: str | None = None,
        *,
        path: str = "",
        width: int = 1440,
        height: int = 900,
        dark: bool = False,
    ) -> Visit: ...


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser: Browser, office: Office) -> AsyncIterator[OpenTab]:
    """Opens tabs: `await visit(key=..., width=..., dark=...)`; without a key it is the sign-in."""
    contexts: list[BrowserContext] = []

    async def opened(
        key: str | None = None,
        *,
        path: str = "",
        width: int = 1440,
        height: int = 900,
        dark: bool = False,
    ) -> Visit:
        context = await browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = await context.new_page()
        found = Visit(page, context)
        page.on("pageerror", lambda error: found.errors.append(str(error)))
        page.on("console", lambda line: _keep_error(found, line))
        page.on("request", lambda request: _keep_foreign(found, office, request.url))
        if key is not None:
            await page.add_init_script(
                f"if (!sessionStorage.getItem('preceptor-key')) "
                f"sessionStorage.setItem('preceptor-key', {json.dumps(key)})"
            )
        await page.goto(office.page_url + path)
        await page.locator("h1").first.wait_for()
        return found

    yield opened
    for context in contexts:
        await context.close()


def _keep_error(found: Visit, line: Any) -> None:
    # A refused request is the server's answer, shown on the page; what the page did wrong is not.
    if line.type == "error" and "Failed to load resource" not in line.text:
        found.errors.append(line.text)


def _keep_foreign(found: Visit, office: Office, url: str) -> None:
    if not url.startswith((office.url, "data:", "blob:")):
        found.foreign.append(url)


@pytest.fixture(scope="session")
def axe_source() -> Iterator[str]:
    """axe-core as `scripts/get-axe` fetched it from the registry."""
    folder = ROOT / ".venv" / "axe"
    if not list(folder.glob("axe-core-*.tgz")):
        subprocess.run([str(ROOT / "scripts" / "get-axe"), str(folder)], check=True)
    [archive] = folder.glob("axe-core-*.tgz")
    with tarfile.open(archive) as packed:
        member = packed.extractfile("package/axe.min.js")
        assert member is not None
        yield member.read().decode()
