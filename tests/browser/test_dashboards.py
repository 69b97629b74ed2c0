"""The dashboards that a real Prometheus serves, in a real Chromium, on metrics of every kind."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from preceptor_clients.contract.deployment import DeployedKey
from preceptor_services.kit.metrics import Metrics
from preceptor_services.registry.sign_in import write_sign_in

from .test_every_screen import serious

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]
OBSERVABILITY = Path(__file__).parents[2] / "deploy" / "observability"
KEY = "reader-" + "k" * 40
PAGES = ("index", "answers", "gateway")
LABELS = {"outcome": "cached", "status": "503", "state": "dead", "service": "self-teacher"}
"""Those that a panel or an alert selects; the others are their own names."""


def advance(metrics: Metrics) -> bytes:
    """Every metric one step on, as a gateway shows them."""
    for metric in vars(metrics).values():
        names = getattr(metric, "_labelnames", None)
        if names is None:
            continue
        one = metric.labels(*(LABELS.get(name, name) for name in names)) if names else metric
        for method, value in (("inc", 3), ("observe", 0.4), ("set", 40)):
            if hasattr(one, method) and not (method == "inc" and hasattr(one, "set")):
                getattr(one, method)(value)
    return metrics.render()


class GatewayMetrics(BaseHTTPRequestHandler):
    """`GET /metrics` for who has the key."""

    metrics: Metrics

    def do_GET(self) -> None:
        if self.headers["authorization"] != f"Bearer {KEY}":
            self.send_error(401)
            return
        self.send_response(200)
        self.send_header("content-type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(advance(self.metrics))

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the tests look at what Prometheus has."""


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@dataclass
class Prometheus:
    """One process, configured as in the deployment but for its place and its times."""

    folder: Path
    gateway: str
    port: int = field(default_factory=_free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        program = shutil.which("prometheus")
        assert program is not None, "no Prometheus: `apt-get install prometheus`"
        written = (OBSERVABILITY / "prometheus.yml").read_text()
        written = written.replace("/run/keys", str(self.folder))
        written = re.sub(r"_interval: \d+s", "_interval: 1s", written)
        found, _, _ = written.partition("    dns_sd_configs")
        targets = f"    static_configs: [{{targets: ['{self.gateway}']}}]\n"
        (self.folder / "prometheus.yml").write_text(found + targets)
        alerts = re.sub(r"for: \d+m", "for: 0s", (OBSERVABILITY / "alerts.yml").read_text())
        (self.folder / "alerts.yml").write_text(alerts)
        command = [
            program,
            f"--config.file={self.folder}/prometheus.yml",
            f"--storage.tsdb.path={self.folder}/data",
            f"--web.config.file={self.folder}/sign-in.yml",
            f"--web.console.templates={OBSERVABILITY}/consoles",
            f"--web.console.libraries={OBSERVABILITY}/console_libraries",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log)

    def has_three_points(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            reply = self.get("/api/v1/query?query=count_over_time(preceptor_cost_total[1m])")
        except httpx.TransportError:
            return False
        found = reply.json()["data"]["result"] if reply.status_code == 200 else []
        return bool(found) and int(found[0]["value"][1]) >= 3

    def get(self, path: str, password: str = KEY) -> httpx.Response:
        return httpx.get(self.url + path, auth=("reader", password), timeout=30)

    def stop(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    """The address of what shows the metrics."""
    handler = type("Handler", (GatewayMetrics,), {"metrics": Metrics()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory, gateway: str) -> Iterator[Prometheus]:
    """A Prometheus that has asked the gateway a few times."""
    folder = tmp_path_factory.mktemp("prometheus")
    key = DeployedKey(
        file=folder / "reader.key", scopes=("reader",), sign_in_file=folder / "sign-in.yml"
    )
    key.file.write_text(KEY + "\n")
    write_sign_in("reader", key)
    running = Prometheus(folder, gateway)
    running.start()
    deadline = time.monotonic() + 120
    while not running.has_three_points():
        assert time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.5)
    yield running
    running.stop()


@dataclass
class Tab:
    """A page with what went wrong on it."""

    page: Page
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


@pytest_asyncio.fixture(loop_scope="session")
async def tab(browser: Browser, prometheus: Prometheus) -> AsyncIterator[Tab]:
    """A tab of somebody who has signed in."""
    context = await browser.new_context(http_credentials={"username": "reader", "password": KEY})
    tab = Tab(await context.new_page())
    tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.page.on(
        "request",
        lambda one: one.url.startswith((prometheus.url, "data:")) or tab.foreign.append(one.url),
    )
    yield tab
    await context.close()


async def looked(page: Page) -> None:
    """Waits until every panel has been asked for."""
    await expect(page.locator("#looked")).to_contain_text("as of")


@pytest.mark.parametrize("name", PAGES)
async def test_every_panel_draws_what_prometheus_has(
    tab: Tab, prometheus: Prometheus, axe_source: str, name: str
) -> None:
    await tab.page.goto(f"{prometheus.url}/consoles/{name}.html")
    await looked(tab.page)

    titles = await tab.page.locator("section h2").all_inner_texts()
    drawn = await tab.page.locator("section:has(canvas):has(.legend li) h2").all_inner_texts()
    assert len(titles) >= 6
    assert drawn == titles
    assert await tab.page.locator(".fault").count() == 0
    values = await tab.page.locator(".legend b").all_inner_texts()
    assert values
    assert not [value for value in values if not re.match(r"[\d.,]+( \S+)?$", value)]
    assert await serious(tab.page, axe_source) == []
    assert tab.errors == []
    assert tab.foreign == []


async def test_who_has_no_key_sees_nothing(prometheus: Prometheus) -> None:
    paths = ("/consoles/index.html", "/api/v1/query?query=up", "/metrics", "/-/ready")

    assert {prometheus.get(path, "guessed").status_code for path in paths} == {401}
    assert {httpx.get(prometheus.url + path).status_code for path in paths} == {401}
    assert {prometheus.get(path).status_code for path in paths} == {200}


async def test_a_legend_names_the_service_and_a_value_has_its_unit(
    tab: Tab, prometheus: Prometheus
) -> None:
    await tab.page.goto(f"{prometheus.url}/consoles/index.html")
    await looked(tab.page)

    panel = tab.page.locator("section", has_text="Where the time of a job goes")
    await expect(panel.locator(".legend li")).to_have_text(
        [f"self-teacher {part} 400 ms" for part in ("queue", "call", "all")]
    )


async def test_what_fires_is_said_first(tab: Tab, prometheus: Prometheus) -> None:
    await tab.page.goto(f"{prometheus.url}/consoles/index.html")
    await looked(tab.page)

    await expect(tab.page.locator("#alerts")).to_contain_text(
        "NoDispatcher: No dispatcher has called a gateway for 30 seconds"
    )


async def test_another_time_is_kept_from_page_to_page(tab: Tab, prometheus: Prometheus) -> None:
    await tab.page.goto(f"{prometheus.url}/consoles/index.html")
    await looked(tab.page)

    async with tab.page.expect_request(
        lambda one: "query_range" in one.url and "step=30" in one.url
    ):
        await tab.page.get_by_label("the last").select_option("2 hours")
    for name in ("Answers", "Gateway"):
        await tab.page.get_by_role("link", name=name).click()
        await looked(tab.page)
        await expect(tab.page.get_by_label("the last")).to_have_value("7200")


async def test_a_panel_that_prometheus_refuses_says_why(tab: Tab, prometheus: Prometheus) -> None:
    async def broken(route: Any) -> None:
        text = await (await route.fetch()).text()
        await route.fulfill(body=text.replace("preceptor_answers_total[", "preceptor[["))

    await tab.page.route("**/consoles/answers.html", broken)
    await tab.page.goto(f"{prometheus.url}/consoles/answers.html")
    await looked(tab.page)

    fault = tab.page.locator("section", has_text="Answers a second").locator(".fault")
    await expect(fault).to_contain_text("Prometheus refuses this panel's question: ")
    await expect(fault).to_contain_text("parse error")


async def test_a_prometheus_that_is_gone_is_said_and_one_that_is_back_is_asked(
    tab: Tab, prometheus: Prometheus
) -> None:
    await tab.page.goto(f"{prometheus.url}/consoles/gateway.html")
    await looked(tab.page)

    prometheus.stop()
    try:
        await expect(tab.page.locator("#looked")).to_contain_text("Prometheus does not answer")
        assert await tab.page.locator("canvas").count() >= 6  # what was drawn stays
    finally:
        prometheus.start()

    await looked(tab.page)
    assert tab.errors == []
