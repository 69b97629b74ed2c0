"""Route dependencies that authenticate the callers of the correction queue.

The queue accepts two kinds of keys: those of people and those of the deployment. Of the latter,
scope `admin` permits everything here, `trainer` permits adding items and reading results, and
`expert` is for the people's expert.
"""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple, cast

from fastapi import Depends, Request

from preceptor_clients.contract.corrections import Role
from preceptor_clients.contract.errors import Forbidden, Unauthorised
from preceptor_services.corrections.parts import Corrections
from preceptor_services.gateway.http.auth import AsksForKey
from preceptor_services.gateway.http.depends import CorrectionsDep
from preceptor_services.registry.keyring import Keyring

_RANK: Final[dict[str, int]] = {"annotator": 0, "reviewer": 1, "admin": 2}


class Actor(NamedTuple):
    """The authenticated caller and its role."""

    name: str
    role: Role
    services: frozenset[str] | None = None
    """The experts on whose behalf the key may act; None means no limit."""


class PersonWith(AsksForKey):
    """A dependency: a person with at least `role`, authenticated by their own key."""

    def __init__(self, role: Role) -> None:
        self.role: Role = role

    async def __call__(self, request: Request, corrections: CorrectionsDep) -> Actor:
        actor = await _person(request, corrections)
        if actor is None:
            raise Unauthorised("send `Authorization: Bearer KEY`", field="authorization")
        if _RANK[actor.role] < _RANK[self.role]:
            raise Forbidden(
                f"{actor.name} is {actor.role}, this needs {self.role}", field="authorization"
            )
        return actor


class ToolOr(AsksForKey):
    """A dependency: a key of the deployment with one of `scopes`, or a person with `role`."""

    def __init__(self, *scopes: str, role: Role) -> None:
        self.scopes = frozenset(scopes)
        self.role: Role = role

    async def __call__(self, request: Request, corrections: CorrectionsDep) -> Actor:
        """The caller of this request; a tool has the role admin within these routes."""
        actor = await _person(request, corrections)
        if actor is not None:
            if _RANK[actor.role] < _RANK[self.role]:
                raise Forbidden(f"{actor.name} is {actor.role} only", field="authorization")
            return actor
        keyring: Keyring = request.app.state.keyring
        caller = keyring.caller(request.headers.get("authorization"))
        if not caller.may(self.scopes):
            raise Forbidden(
                f"{caller.name} has {sorted(caller.scopes)}, this needs {sorted(self.scopes)}",
                field="authorization",
            )
        everything = "admin" in caller.scopes
        return Actor(caller.name, "admin", None if everything else caller.services)


async def _person(request: Request, corrections: Corrections) -> Actor | None:
    scheme, _, token = (request.headers.get("authorization") or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        return None
    row = await corrections.door.person(token.strip())
    return None if row is None else Actor(row.name, cast("Role", row.role))


Annotator = Annotated[Actor, Depends(PersonWith("annotator"))]
Reviewer = Annotated[Actor, Depends(PersonWith("reviewer"))]
AdminOrTool = Annotated[Actor, Depends(ToolOr(role="admin"))]
AnnotatorOrTrainer = Annotated[Actor, Depends(ToolOr("trainer", role="annotator"))]
ReviewerOrTrainer = Annotated[Actor, Depends(ToolOr("trainer", role="reviewer"))]
PeoplesExpert = Annotated[Actor, Depends(ToolOr("expert", role="admin"))]
