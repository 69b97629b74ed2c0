"""Chooses the proxy of a call from HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY.

Only calls to outside addresses use a proxy. Calls inside the deployment or its network never do,
also where the variables name one: loopback and private addresses, and names that no public resolver
knows.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

_INSIDE: Final = (".localhost", ".local", ".internal", ".lan", ".home.arpa", ".svc", ".test")
_KNOWN: Final = ("http", "https")


def proxy_of(url: str) -> str | None:
    """The proxy for calls to `url`; None for a direct connection.

    Raises:
        ValueError: the variables name a proxy of an unsupported kind.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not host or is_inside(host):
        return None
    proxies: Mapping[str, str] = getproxies_environment()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    if "://" not in found:
        found = f"http://{found}"
    kind = urlsplit(found).scheme
    if kind not in _KNOWN:
        raise ValueError(
            f"{parts.scheme.upper()}_PROXY or ALL_PROXY: kind {kind!r} of proxy is not "
            f"supported, only {' and '.join(_KNOWN)}; to use no proxy, set NO_PROXY={host}"
        )
    return found


def is_inside(host: str) -> bool:
    """Whether a host is on this machine or its network, judged by its spelling alone."""
    name = host.lower().rstrip(".")
    address = _address(name)
    if address is not None:
        return not address.is_global
    # A name of one label is local: a container, a service, or this machine.
    return "." not in name or name.endswith(_INSIDE) or name.endswith(".cluster.local")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a host spells; also in octal, as one number, or with parts left out."""
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except (OSError, UnicodeError):
            return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found
