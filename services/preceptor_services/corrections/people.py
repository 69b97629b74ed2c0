"""The people of the correction queue: names and roles, keys, and settings of their page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from preceptor_clients.contract.corrections import IssuedKey, NewPerson, Person, PersonList
from preceptor_clients.contract.errors import Conflict, NotFound
from preceptor_services.corrections.keys import PersonKeys
from preceptor_services.corrections.views import people_of, person_of
from preceptor_services.kit.clock import Clock
from preceptor_services.store.corrections import people as stored
from preceptor_services.store.database import Database


@dataclass(frozen=True, kw_only=True)
class People:
    """Adds people, issues and revokes their keys."""

    database: Database
    clock: Clock
    keys: PersonKeys

    async def every(self) -> PersonList:
        async with self.database.read() as conn:
            rows = await stored.every(conn)
        return PersonList(people=people_of(rows))

    async def get(self, name: str) -> Person:
        """One person.

        Raises:
            NotFound: no person has this name.
        """
        async with self.database.read() as conn:
            row = await stored.find(conn, name)
        if row is None:
            raise NotFound(f"no person is named {name!r}", field="name")
        return person_of(row)

    async def add(self, new: NewPerson) -> IssuedKey:
        """Adds a person; returns their key, which is shown only once.

        Raises:
            Conflict: the name is taken.
        """
        key, digest = self.keys.new()
        row = stored.new_row(new.name, new.role, digest, self.clock.now())
        async with self.database.write() as conn:
            if await stored.find(conn, new.name) is not None:
                raise Conflict(f"a person named {new.name!r} exists already", field="name")
            await stored.add(conn, row)
        return IssuedKey(person=await self.get(new.name), key=key)

    async def new_key(self, name: str) -> IssuedKey:
        """Replaces the person's key; the old one is invalid from now on.

        Raises:
            Conflict: the person is retired.
        """
        key, digest = self.keys.new()
        person = await self.get(name)
        if person.retired_at is not None:
            raise Conflict(f"{name} is retired", field="name")
        async with self.database.write() as conn:
            await stored.change(conn, name, token_hmac=digest, revoked_at=None)
        return IssuedKey(person=await self.get(name), key=key)

    async def revoke(self, name: str) -> Person:
        """Revokes the person's key; the versions that they handed in stay."""
        await self.get(name)
        async with self.database.write() as conn:
            await stored.change(conn, name, revoked_at=self.clock.now())
        return await self.get(name)

    async def keep_settings(self, name: str, settings: Mapping[str, JsonValue]) -> None:
        """Stores the settings of the person's page."""
        async with self.database.write() as conn:
            await stored.change(conn, name, settings=dict(settings))
