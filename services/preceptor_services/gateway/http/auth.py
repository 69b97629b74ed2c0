"""Who calls: bearer keys, known by a keyed hash of theirs, each with scopes.

A key is 256 random bits, so a fast keyed hash is enough: a slow one would be a lever for denial of
service. The database holds the hash only, and without the server's own key it is worth nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, Request

from preceptor_clients.contract.errors import Forbidden, Unauthorised
from preceptor_services.kit.settings import KeySettings, Scope, read_secret
from preceptor_services.store import services
from preceptor_services.store.database import Database


class Caller(NamedTuple):
    """Whose key it is and what it opens."""

    name: str
    scopes: frozenset[str]

    def may(self, scopes: frozenset[str]) -> bool:
        """Whether the key has one of `scopes`."""
        return bool(scopes & self.scopes) or "admin" in self.scopes


class Keyring:
    """The valid keys of this process."""

    def __init__(self, hash_key: str, keys: Mapping[str, KeySettings]) -> None:
        self._hash_key = hash_key.encode()
        self._callers: dict[str, Caller] = {}
        for name, key in keys.items():
            digest = self._digest(read_secret(key.file))
            if digest in self._callers:
                raise ValueError(f"keys.{name}: has the same token as {self._callers[digest].name}")
            self._callers[digest] = Caller(name, frozenset(key.scopes))

    def caller(self, authorization: str | None) -> Caller:
        """Who sent this header.

        Raises:
            Unauthorised: it carries no key, or one that is not valid.
        """
        scheme, _, token = (authorization or "").partition(" ")
        # Looked up by its hash, so that time tells nothing about the tokens that are valid.
        caller = self._callers.get(self._digest(token.strip()))
        if scheme.lower() != "bearer" or caller is None:
            raise Unauthorised("send `Authorization: Bearer KEY`", field="authorization")
        return caller

    async def store(self, database: Database, now: float) -> None:
        """Writes the hashes down; keys that are gone from the settings are revoked."""
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


class Needs:
    """A dependency: the caller, who must have one of `scopes`."""

    def __init__(self, *scopes: Scope) -> None:
        self.scopes = frozenset[str](scopes)

    async def __call__(self, request: Request) -> Caller:
        """The caller of this request."""
        # async, like every dependency here: FastAPI runs the others in a thread of their own.
        caller: Caller = request.app.state.gateway.keyring.caller(
            request.headers.get("authorization")
        )
        if not caller.may(self.scopes):
            raise Forbidden(
                f"{caller.name} has {sorted(caller.scopes)}, this needs {sorted(self.scopes)}",
                field="authorization",
            )
        return caller


ANY_SCOPE = Needs("trainer", "dispatcher", "expert", "reader", "admin")
Trainer = Annotated[Caller, Depends(Needs("trainer"))]
Dispatcher = Annotated[Caller, Depends(Needs("dispatcher"))]
Expert = Annotated[Caller, Depends(Needs("expert"))]
Reader = Annotated[Caller, Depends(Needs("trainer", "reader"))]
Admin = Annotated[Caller, Depends(Needs("admin"))]
Anyone = Annotated[Caller, Depends(ANY_SCOPE)]


def new_key(path: Path) -> str:
    """Makes a key and its file, which only its owner can read; an existing file is kept."""
    if path.exists():
        return read_secret(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_urlsafe(32)
    path.touch(mode=0o600)
    path.write_text(token + "\n")
    return token
