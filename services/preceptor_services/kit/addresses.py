"""The addresses at which services of a deployment may be."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from preceptor_clients.contract.deployment import Deployment
from preceptor_clients.http.addresses import AddressPolicy, Endpoint

_DEFAULT_PORTS = {"redis": 6379, "rediss": 6379, "valkey": 6379, "postgresql": 5432}


def address_policy(deployment: Deployment, *, added_at_runtime: bool) -> AddressPolicy:
    """The allowed addresses: any address from the settings, but not any address from a caller.

    The addresses of broker, database and gateway are refused in both cases.
    """
    gateway = deployment.gateway
    never = [Endpoint(gateway.host, gateway.port)]
    for url in (gateway.broker, gateway.database):
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme.partition("+")[0])
        if parts.hostname and port:
            never.append(Endpoint(parts.hostname, port))
    return AddressPolicy(
        everything=not added_at_runtime,
        allowed=tuple(ipaddress.ip_network(net) for net in gateway.allow_service_addresses),
        never=tuple(never),
    )
