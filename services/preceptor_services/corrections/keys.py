"""Keys of people: one each, random, shown once, kept as a keyed hash, revocable at once."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from preceptor_clients.kit.files import new_key
from preceptor_services.kit.group_commit import GroupCommit
from preceptor_services.store.corrections import people as people
from preceptor_services.store.corrections.people import PersonRow
from preceptor_services.store.database import Database


class PersonKeys:
    """Hashes keys with the deployment's secret."""

    def __init__(self, hash_key: str) -> None:
        self._hash_key = hash_key.encode()

    def new(self) -> tuple[str, str]:
        """A key, and its hash."""
        token = new_key()
        return token, self.digest(token)

    def digest(self, token: str) -> str:
        """What the database holds of a key."""
        # Another prefix than the callers' keys have: the two never stand for each other.
        return hmac.new(self._hash_key, f"person\0{token}".encode(), hashlib.sha256).hexdigest()


class Door:
    """Tells whose a key is.

    Nothing is remembered from one request to the next, so that a revoked key opens nothing from
    then on, at any gateway; requests that come at once share a query.
    """

    def __init__(self, database: Database, keys: PersonKeys) -> None:
        self._database = database
        self._keys = keys
        self._find = GroupCommit(self._find_all)

    async def person(self, token: str) -> PersonRow | None:
        """Whose valid key this is."""
        return await self._find(self._keys.digest(token))

    async def _find_all(self, digests: Sequence[str]) -> list[PersonRow | Exception | None]:
        async with self._database.read() as conn:
            found = await people.by_keys(conn, list(dict.fromkeys(digests)))
        return [found.get(digest) for digest in digests]
