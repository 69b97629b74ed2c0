"""Proxies of the environment are for outside addresses alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from preceptor_clients.http.connection import HttpClient
from preceptor_clients.http.proxies import proxy_of

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@dataclass
class Recording:
    """A server, or a proxy, that answers everything and keeps what it was asked."""

    heads: list[str] = field(default_factory=list[str])
    port: int = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
        await writer.drain()
        writer.close()


@asynccontextmanager
async def recording() -> AsyncIterator[Recording]:
    found = Recording()
    server = await asyncio.start_server(found.answer, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    async with server:
        yield found


# One library says these of another's use of it.
@pytest.mark.filterwarnings("ignore:BasicAuth is deprecated")
@pytest.mark.filterwarnings("ignore:The 'proxy_auth' parameter")
async def test_an_outside_address_is_called_through_the_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with recording() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://ann:secret@127.0.0.1:{proxy.port}")
        async with HttpClient("http://api.example.com", "key") as client:
            received = await client.exchange("GET", "/v1/models", timeout_s=10)

    assert received.body == b"ok"
    [head] = proxy.heads
    assert head.startswith("GET http://api.example.com/v1/models ")
    assert "proxy-authorization: basic" in head.lower()


async def test_this_machine_is_never_called_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with recording() as proxy, recording() as server:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        for host in ("127.0.0.1", "localhost"):
            async with HttpClient(f"http://{host}:{server.port}") as client:
                await client.exchange("GET", "/v1/info", timeout_s=10)

    assert proxy.heads == []
    assert len(server.heads) == 2


@pytest.mark.parametrize(
    ("url", "proxied"),
    [
        ("https://api.example.com/v1", True),
        ("https://8.8.8.8/v1", True),
        ("https://[2606:4700::1111]/v1", True),
        ("http://127.0.0.1:8080", False),
        ("http://[::1]:8080", False),
        ("http://[::ffff:10.0.0.1]:8080", False),
        ("http://localhost:8080", False),
        ("http://LOCALHOST.:8080", False),
        ("http://10.1.2.3:8080", False),
        ("http://192.168.0.7", False),
        ("http://172.20.0.2:8101", False),
        ("http://100.64.0.1", False),
        ("http://169.254.169.254/latest", False),
        ("http://0177.0.0.1:8080", False),
        ("http://2130706433:8080", False),
        ("http://gateway:8080", False),
        ("http://teacher.jobs.svc.cluster.local", False),
        ("http://box.internal", False),
    ],
)
def test_only_outside_addresses_go_through_one(
    monkeypatch: pytest.MonkeyPatch, url: str, proxied: bool
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "proxy.example.net:3128")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.net:3128")

    assert proxy_of(url) == ("http://proxy.example.net:3128" if proxied else None)


@pytest.mark.parametrize(
    ("no_proxy", "proxied"),
    [("", True), ("other.org", True), ("example.com", False), (".example.com", False),
     ("*", False), ("api.example.com:8443", False)],
)  # fmt: skip
def test_no_proxy_is_respected(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, proxied: bool
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy.example.net:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)

    assert (proxy_of("https://api.example.com:8443/v1") is not None) == proxied


def test_a_proxy_of_an_unknown_kind_is_named_without_its_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://ann:secret@proxy.example.net")

    with pytest.raises(ValueError, match="ALL_PROXY: kind 'socks5'") as refused:
        proxy_of("https://api.example.com")
    assert "secret" not in str(refused.value)
    assert proxy_of("http://127.0.0.1:8080") is None
