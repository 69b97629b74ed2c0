"""What records of runs may refer to, and that they never change. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from preceptor_clients.errors import Conflict, Invalid


def same(known: object, sent: object, what: str, field: str) -> None:
    """The record that came first stands; another one of its name is refused."""
    if known != sent:
        raise Conflict(f"{what} is recorded with another content", field=field)


def refuse_unknown(ids: Sequence[str], known: set[str] | Mapping[str, str], field: str) -> None:
    """Every one of `ids` must be there."""
    missing = [item for item in ids if item not in known]
    if missing:
        raise Invalid(f"{missing[0]!r} is unknown", field=field)
