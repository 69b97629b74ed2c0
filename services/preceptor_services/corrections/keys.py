"""Keys of people: one per person, random, shown once, stored as a keyed hash, revocable at once."""

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
        """A new key and its hash."""
        token = new_key()
        return token, self.digest(token)

    def digest(self, token: str) -> str:
        """The keyed hash that the database stores."""
        # The prefix differs from that of callers' keys, so that no key is valid as the other kind.
        return hmac.new(self._hash_key, f"person\0{token}".encode(), hashlib.sha256).hexdigest()


class Door:
    """Finds the person of a key.

    Nothing is cached between requests, so that a revoked key is refused from the next request on,
    at every gateway. Requests that arrive at the same time share a query.
    """

    def __init__(self, database: Database, keys: PersonKeys) -> None:
        self._database = database
        self._keys = keys
        self._find = GroupCommit(self._find_all)

    async def person(self, token: str) -> PersonRow | None:
        """The person with this valid key."""
        return await self._find(self._keys.digest(token))

    async def _find_all(self, digests: Sequence[str]) -> list[PersonRow | Exception | None]:
        async with self._database.read() as conn:
            found = await people.by_keys(conn, list(dict.fromkeys(digests)))
        return [found.get(digest) for digest in digests]
