"""Policy of the addresses that a client may connect to, checked on the connecting socket.

A name may resolve to one address when it is checked and to another when it is used, and one address
has many spellings (decimal, octal, mapped into IPv6). So the check is made on the address itself,
at the moment of the connection; the earlier check of a URL only reports the fault sooner.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_NUMERIC: Final = re.compile(r"(^|\.)(\d+|0[xX][0-9a-fA-F]*)\.?$")
"""Hosts that end in a number are addresses, however they are spelled."""
_TRANSLATED: Final = ipaddress.IPv6Network("64:ff9b::/96")
_RESOLVE_S: Final = 5.0


class AddressRefused(OSError):
    """The policy does not allow a connection to this address."""

    def __init__(self, reason: str) -> None:
        # With an error number, so that libraries that report system errors report the reason.
        super().__init__(errno.EACCES, reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class Endpoint(NamedTuple):
    """Host and port of one of the deployment's own servers."""

    host: str
    port: int


@dataclass(frozen=True, kw_only=True)
class AddressPolicy:
    """The addresses that a client may connect to."""

    everything: bool = False
    """Whether all addresses are allowed, private ones too: a trusted person configured them."""
    allowed: tuple[Network, ...] = ()
    """Networks that are allowed beside public addresses."""
    never: tuple[Endpoint, ...] = ()
    """Always refused, even if another field allows it."""

    def check(self, address: Address, port: int) -> None:
        """Refuses an address that is not allowed.

        Raises:
            AddressRefused: the address is not allowed; the message gives the reason.
        """
        inner = _embedded(address) or address
        for endpoint in self.never:
            if port == endpoint.port and _is_at(inner, endpoint.host):
                raise AddressRefused(f"port {port} of {address} is the deployment's own server")
        if self.everything or any(address in network for network in self.allowed):
            return
        if inner != address or not address.is_global or address.is_multicast:
            raise AddressRefused(
                f"{address} is not a public address; allow it in [gateway] allow_service_addresses"
            )

    def check_host(self, host: str, port: int) -> None:
        """Checks a host as written in a URL, without resolving it.

        Raises:
            AddressRefused: it is an address that is not allowed, or is spelled in another way than
                dotted decimal, or is the deployment's own name.
        """
        if Endpoint(host, port) in self.never:
            raise AddressRefused(f"{host}:{port} is the deployment's own server")
        try:
            address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
        except ValueError:
            if _NUMERIC.search(host):
                raise AddressRefused(
                    f"{host} is not a valid address; write four decimal numbers with dots"
                ) from None
            return
        self.check(address, port)

    async def check_resolved(self, host: str, port: int) -> None:
        """Checks every address that the host's name resolves to now.

        Raises:
            AddressRefused: it resolves to an address that is not allowed.
        """
        self.check_host(host, port)
        found: list[Any] = []
        # A name that does not resolve yet is checked again when it is used.
        with contextlib.suppress(OSError, TimeoutError, UnicodeError):
            async with asyncio.timeout(_RESOLVE_S):
                loop = asyncio.get_running_loop()
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for *_, address in found:
            self.check(_address_of(address), port)

    def open_socket(self, addr_info: tuple[Any, ...]) -> socket.socket:
        """The socket for one resolved address, which is checked first; for aiohttp's connector."""
        family, kind, protocol, _, address = addr_info
        self.check(_address_of(address), address[1])
        return socket.socket(family=family, type=kind, proto=protocol)


ANYWHERE: Final = AddressPolicy(everything=True)


def _address_of(address: tuple[Any, ...]) -> Address:
    return ipaddress.ip_address(str(address[0]).partition("%")[0])


def _embedded(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address embeds and routes to."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _TRANSLATED:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)


def _is_at(address: Address, host: str) -> bool:
    """Whether `address` leads to the machine that `host` names."""
    try:
        named: Address | None = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        named = None
    if named is not None and named == address:
        return True
    here = host in ("", "localhost") or (named is not None and _is_here(named))
    return here and _is_here(address)


def _is_here(address: Address) -> bool:
    """Whether it is an address of this machine."""
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    # A socket binds only to an address of this machine; nothing is sent.
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((str(address), 0))
        return True
    return False
