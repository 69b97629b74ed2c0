"""Keys of people: one each, random, shown once, kept as a keyed hash, revocable at once."""

from __future__ import annotations

import hashlib
import hmac
import secrets


class PersonKeys:
    """Hashes keys with the deployment's secret."""

    def __init__(self, hash_key: str) -> None:
        self._hash_key = hash_key.encode()

    def new(self) -> tuple[str, str]:
        """A key, and its hash."""
        token = secrets.token_urlsafe(32)
        return token, self.digest(token)

    def digest(self, token: str) -> str:
        """What the database holds of a key."""
        # Another prefix than the callers' keys have: the two never stand for each other.
        return hmac.new(self._hash_key, f"person\0{token}".encode(), hashlib.sha256).hexdigest()
