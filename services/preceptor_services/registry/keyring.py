"""Callers of the gateway: bearer keys with scopes, identified by a keyed hash.

A key is 256 random bits, so a fast keyed hash is enough; a slow hash would make denial of service
easier. The database holds only the hash, which is useless without the server's own key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, NamedTuple

from preceptor_clients.contract.deployment import DeployedKey
from preceptor_clients.contract.errors import Unauthorised
from preceptor_services.kit.settings import read_secret
from preceptor_services.store import services
from preceptor_services.store.database import Database


class Caller(NamedTuple):
    """The name of a key, and what the key permits."""

    name: str
    scopes: frozenset[str]
    services: frozenset[str] = frozenset()
    """The experts on whose behalf the key may send answers and questions."""

    def may(self, scopes: frozenset[str]) -> bool:
        """Whether the key has one of `scopes`."""
        return bool(scopes & self.scopes) or "admin" in self.scopes

    def speaks_for(self, service: str) -> bool:
        """Whether the key may send answers and questions of `service`."""
        return service in self.services or "admin" in self.scopes


class Keyring:
    """The valid keys of this process."""

    def __init__(self, hash_key: str, keys: Mapping[str, DeployedKey]) -> None:
        self._hash_key = hash_key.encode()
        self._callers: dict[str, Caller] = {}
        for name, key in keys.items():
            digest = self._digest(read_secret(key.file))
            if digest in self._callers:
                raise ValueError(f"keys.{name}: has the same token as {self._callers[digest].name}")
            self._callers[digest] = Caller(name, frozenset(key.scopes), frozenset(key.service))

    def caller(self, authorization: str | None) -> Caller:
        """The caller of a request with this header.

        Raises:
            Unauthorised: the header has no key, or an invalid one.
        """
        scheme, _, token = (authorization or "").partition(" ")
        # The lookup is by hash, so its duration reveals nothing about the valid tokens.
        caller = self._callers.get(self._digest(token.strip()))
        if scheme.lower() != "bearer" or caller is None:
            raise Unauthorised("send `Authorization: Bearer KEY`", field="authorization")
        return caller

    async def store(self, database: Database, now: float) -> None:
        """Stores the hashes; keys that are no longer in the settings are revoked."""
        rows: list[dict[str, Any]] = [
            {
                "name": caller.name,
                "token_hmac": digest,
                "scopes": sorted(caller.scopes),
                "created_at": now,
                "revoked_at": None,
            }
            for digest, caller in self._callers.items()
        ]
        async with database.write() as conn:
            await services.replace_keys(conn, rows, now)

    def _digest(self, token: str) -> str:
        return hmac.new(self._hash_key, token.encode(), hashlib.sha256).hexdigest()
