"""The queue's parts, built once per gateway process, and who may use them.

Two kinds of keys open the queue: people's own, kept here, and the deployment's. `admin` among the
latter may do everything here too, `trainer` may send items in and read results, `expert` is for the
people's expert.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, NamedTuple, Self, cast

from fastapi import Depends, Request

from preceptor_clients.contract.corrections import Role
from preceptor_clients.contract.errors import Forbidden, Unauthorised
from preceptor_services.corrections.expert_view import ExpertViews
from preceptor_services.corrections.intake import Intake
from preceptor_services.corrections.keys import Door, PersonKeys
from preceptor_services.corrections.results import Outcome
from preceptor_services.corrections.retire import Retiring
from preceptor_services.corrections.review import Reviewing
from preceptor_services.corrections.views import Views
from preceptor_services.corrections.work import Queue
from preceptor_services.gateway.parts import Gateway
from preceptor_services.kit.settings import read_secret
from preceptor_services.store.database import Database

NO_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": False,
        "content": {"application/json": {"schema": {"type": "object", "maxProperties": 0}}},
    }
}
"""What a route's page says of a body that means nothing."""
_RANK: Final[dict[str, int]] = {"annotator": 0, "reviewer": 1, "admin": 2}


@dataclass(frozen=True, kw_only=True)
class Corrections:
    """Everything that a route of the queue may need."""

    database: Database
    keys: PersonKeys
    door: Door
    queue: Queue
    reviewing: Reviewing
    intake: Intake
    views: Views
    outcome: Outcome
    retiring: Retiring
    expert_views: ExpertViews

    @classmethod
    def build(cls, gateway: Gateway) -> Self:
        """Puts the parts together."""
        database, clock, packs = gateway.database, gateway.clock, gateway.packs
        intake = Intake(database=database, clock=clock, packs=packs)
        keys = PersonKeys(read_secret(gateway.settings.gateway.hash_key_file))
        return cls(
            database=database,
            keys=keys,
            door=Door(database, keys),
            queue=Queue(database=database, clock=clock),
            reviewing=Reviewing(database=database, clock=clock),
            intake=intake,
            views=Views(database=database, clock=clock),
            outcome=Outcome(database=database, clock=clock, intake=intake),
            retiring=Retiring(database=database, clock=clock, packs=packs),
            expert_views=ExpertViews(
                database=database, clock=clock, packs=packs, blobs=gateway.blobs
            ),
        )


async def _corrections(request: Request) -> Corrections:
    state: Any = request.app.state
    if not hasattr(state, "corrections"):
        state.corrections = Corrections.build(state.gateway)
    return state.corrections


Parts = Annotated[Corrections, Depends(_corrections)]


class Actor(NamedTuple):
    """Who acts, and as what."""

    name: str
    role: Role


class PersonWith:
    """A dependency: a person with at least `role`, known by their own key."""

    def __init__(self, role: Role) -> None:
        self.role: Role = role

    async def __call__(self, request: Request, parts: Parts) -> Actor:
        """The person."""
        actor = await _person(request, parts)
        if actor is None:
            raise Unauthorised("send `Authorization: Bearer KEY`", field="authorization")
        if _RANK[actor.role] < _RANK[self.role]:
            raise Forbidden(
                f"{actor.name} is {actor.role}, this needs {self.role}", field="authorization"
            )
        return actor


class ToolOr:
    """A dependency: a key of the deployment with one of `scopes`, or a person with `role`."""

    def __init__(self, *scopes: str, role: Role) -> None:
        self.scopes = frozenset(scopes)
        self.role: Role = role

    async def __call__(self, request: Request, parts: Parts) -> Actor:
        """Whoever calls; a tool acts as an admin within these routes."""
        actor = await _person(request, parts)
        if actor is not None:
            if _RANK[actor.role] < _RANK[self.role]:
                raise Forbidden(f"{actor.name} is {actor.role} only", field="authorization")
            return actor
        gateway: Gateway = request.app.state.gateway
        caller = gateway.keyring.caller(request.headers.get("authorization"))
        if not caller.may(self.scopes):
            raise Forbidden(
                f"{caller.name} has {sorted(caller.scopes)}, this needs {sorted(self.scopes)}",
                field="authorization",
            )
        return Actor(caller.name, "admin")


async def _person(request: Request, parts: Corrections) -> Actor | None:
    scheme, _, token = (request.headers.get("authorization") or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        return None
    row = await parts.door.person(token.strip())
    return None if row is None else Actor(row.name, cast("Role", row.role))


Annotator = Annotated[Actor, Depends(PersonWith("annotator"))]
Reviewer = Annotated[Actor, Depends(PersonWith("reviewer"))]
AdminOrTool = Annotated[Actor, Depends(ToolOr(role="admin"))]
ReviewerOrTrainer = Annotated[Actor, Depends(ToolOr("trainer", role="reviewer"))]
PeoplesExpert = Annotated[Actor, Depends(ToolOr("expert", role="admin"))]
