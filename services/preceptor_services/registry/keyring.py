"""Callers of the gateway: bearer keys with scopes, identified by a keyed hash.

A key is 256 random bits, so a fast keyed hash is enough; a slow hash would make denial of service
easier. The database holds only the hash, which is useless without the server's own key. The key
files are read again when they change (`secrets.py`), so a key is rotated without a restart: its
previous secret is valid until its grace time is over.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from preceptor_clients.contract.deployment import DeployedKey
from preceptor_clients.contract.errors import KeyOverLimit, Unauthorised
from preceptor_services.kit.clock import Clock
from preceptor_services.registry.rates import Rate
from preceptor_services.registry.secrets import Secret, Stamps, read_secrets, stamps
from preceptor_services.store import services
from preceptor_services.store.database import Database

_log = logging.getLogger("preceptor.gateway")


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


class _Keys(NamedTuple):
    """What the key files held, by digest of a secret."""

    callers: dict[str, Caller]
    secrets: dict[str, Secret]


class Keyring:
    """The valid keys of this process."""

    def __init__(self, hash_key: str, keys: Mapping[str, DeployedKey], clock: Clock) -> None:
        self._hash_key = hash_key.encode()
        self._keys = keys
        self._clock = clock
        self._rates = {
            name: Rate(key.max_requests_per_s)
            for name, key in keys.items()
            if key.max_requests_per_s is not None
        }
        self._stamps: Stamps = stamps(keys)
        self._callers, self._secrets = self._read()

    def caller(self, authorization: str | None) -> Caller:
        """The caller of a request with this header.

        Raises:
            Unauthorised: the header has no key, or one that is invalid or has expired.
            KeyOverLimit: the key has sent more requests a second than it may.
        """
        scheme, _, token = (authorization or "").partition(" ")
        # The lookup is by hash, so its duration reveals nothing about the valid tokens.
        digest = self._digest(token.strip())
        caller = self._callers.get(digest)
        if scheme.lower() != "bearer" or caller is None:
            raise Unauthorised("send `Authorization: Bearer KEY`", field="authorization")
        until = self._secrets[digest].until
        if until is not None and self._clock.now() >= until:
            said = _expired(caller.name, until, current=self._secrets[digest].current)
            raise Unauthorised(said, field="authorization")
        self._check_rate(caller.name)
        return caller

    def _check_rate(self, name: str) -> None:
        rate = self._rates.get(name)
        wait_s = 0.0 if rate is None else rate.wait_s()
        if rate is not None and wait_s > 0:
            raise KeyOverLimit(
                f"{name} may send {rate.per_s:g} requests a second",
                field="authorization",
                retry_after_s=wait_s,
            )

    def refresh(self) -> list[str]:
        """Reads the key files again if one changed; returns the names with another secret.

        A file that cannot be read is logged, and all keys stay as they are.
        """
        found = stamps(self._keys)
        if found == self._stamps:
            return []
        try:
            read = self._read()
        except (OSError, ValueError) as error:
            _log.error("the keys stay as they are: %s", error)
            return []
        changed = {c.name for digest, c in read.callers.items() if digest not in self._callers}
        self._stamps, (self._callers, self._secrets) = found, read
        return sorted(changed)

    async def store(self, database: Database, now: float) -> list[tuple[str, str]]:
        """Stores the hashes; keys that are no longer in the settings are revoked.

        Returns:
            Names of keys and what changed: `add`, `change` (of secret or scopes) or `revoke`.
        """
        rows: list[dict[str, Any]] = [
            {
                "name": caller.name,
                "token_hmac": digest,
                "scopes": sorted(caller.scopes),
                "created_at": now,
                "revoked_at": None,
            }
            for digest, caller in self._callers.items()
            if self._secrets[digest].current
        ]
        async with database.write() as conn:
            before = {row.name: row for row in await services.valid_keys(conn)}
            changes = [
                (row["name"], "add" if row["name"] not in before else "change")
                for row in rows
                if before.get(row["name"])
                != services.KeyRow(row["name"], row["token_hmac"], row["scopes"])
            ]
            changes += [(name, "revoke") for name in before if name not in self._keys]
            if changes:
                await services.replace_keys(conn, rows, now)
        return changes

    def _read(self) -> _Keys:
        found = _Keys({}, {})
        for name, key in self._keys.items():
            caller = Caller(name, frozenset(key.scopes), frozenset(key.service))
            for secret in read_secrets(key):
                digest = self._digest(secret.token)
                if digest in found.callers:
                    other = found.callers[digest].name
                    raise ValueError(f"keys.{name}: has the same token as {other}")
                found.callers[digest], found.secrets[digest] = caller, secret._replace(token="")
        return found

    def _digest(self, token: str) -> str:
        return hmac.digest(self._hash_key, token.encode(), "sha256").hex()


def _expired(name: str, until: float, *, current: bool) -> str:
    when = datetime.fromtimestamp(until, UTC).isoformat(timespec="seconds")
    remedy = (
        "set another `expires` in its section of the settings"
        if current
        else "read its file again, it holds the new one"
    )
    return f"this key of {name} was valid until {when}; {remedy}"
