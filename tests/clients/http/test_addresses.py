"""What may not be connected to is not, however it is spelled and whatever its name means later."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest

from preceptor_clients.contract.errors import ServiceUnavailable
from preceptor_clients.http.addresses import AddressPolicy, AddressRefused, Endpoint
from preceptor_clients.http.connection import NO_RETRY, HttpClient, check_url

OUTSIDE = AddressPolicy()
LOOPBACK = AddressPolicy(allowed=(ipaddress.ip_network("127.0.0.0/8"),))

PRIVATE = [
    *("127.0.0.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1"),
    *("169.254.169.254", "224.0.0.1", "255.255.255.255"),
    *("[::1]", "[::]", "[fe80::1]", "[fd00:ec2::254]", "[ff02::1]"),
    *("[::ffff:127.0.0.1]", "[::ffff:8.8.8.8]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]"),
]
SPELLINGS = [
    "2130706433",
    "017700000001",
    "0177.0.0.1",
    "0x7f.1",
    "0x7f000001",
    "127.1",
    "1.2.3.4.",
]


@pytest.mark.parametrize("host", PRIVATE)
def test_an_address_that_is_not_public_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="url:"):
        check_url(f"http://{host}:8101", OUTSIDE)


@pytest.mark.parametrize("host", SPELLINGS)
def test_an_address_in_another_spelling_is_refused_even_where_it_is_allowed(host: str) -> None:
    with pytest.raises(ValueError, match="url:"):
        check_url(f"http://{host}:8101", LOOPBACK)


@pytest.mark.parametrize("url", ["http://8.8.8.8", "https://example.org", "http://[2606:4700::1]"])
def test_public_addresses_and_names_are_allowed(url: str) -> None:
    assert check_url(url, OUTSIDE)[1] in (80, 443)


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "http://a:99999", "http://\x00", "//x"])
def test_what_is_no_address_is_a_value_error(url: str) -> None:
    with pytest.raises(ValueError, match="url:"):
        HttpClient(url)


@pytest.mark.parametrize("own", ["127.0.0.1", "localhost", "0.0.0.0", "::"])
@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.8.8.8", "0.0.0.0", "::1", "::ffff:127.0.0.1"]
)
def test_the_deployments_own_ports_are_refused_to_everybody(own: str, address: str) -> None:
    policy = AddressPolicy(everything=True, never=(Endpoint(own, 6379),))

    with pytest.raises(AddressRefused, match="own"):
        policy.check(ipaddress.ip_address(address), 6379)
    policy.check(ipaddress.ip_address(address), 6380)


async def test_a_name_is_judged_by_what_it_means_when_it_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.setblocking(False)
    answers = iter([[("8.8.8.8", port)]])

    def rebinding(host: Any, *_: Any, **__: Any) -> list[Any]:
        [address] = next(answers, [("127.0.0.1", port)])
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address)]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    await OUTSIDE.check_resolved("rebinding.example", port)
    async with HttpClient(
        f"http://rebinding.example:{port}", retry=NO_RETRY, addresses=OUTSIDE
    ) as client:
        with pytest.raises(ServiceUnavailable, match="not a public address"):
            await client.call("GET", "/v1/info", timeout_s=5)

    with listener, pytest.raises(BlockingIOError):  # nobody has come
        listener.accept()


async def test_an_allowed_address_is_connected_to() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()

    async with HttpClient(f"http://localhost:{port}", retry=NO_RETRY, addresses=LOOPBACK) as client:
        with pytest.raises(ServiceUnavailable, match=r"(?i)connect") as refused:
            await client.call("GET", "/v1/info", timeout_s=5)

    assert "public" not in refused.value.detail
