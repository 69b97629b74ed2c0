"""Route dependencies that authenticate a caller of the deployment and check the key's scope."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from preceptor_clients.contract.deployment import Scope
from preceptor_clients.contract.errors import Forbidden
from preceptor_services.registry.keyring import Caller, Keyring


class AsksForKey:
    """A dependency that refuses requests without a valid key; `openapi.py` describes it."""


class Needs(AsksForKey):
    """A dependency: the caller, who must have one of `scopes`."""

    def __init__(self, *scopes: Scope) -> None:
        self.scopes = frozenset[str](scopes)

    async def __call__(self, request: Request) -> Caller:
        """The caller of this request."""
        # async, like every dependency here: FastAPI runs the others in a thread of their own.
        return self.allowed(request, request.headers.get("authorization"))

    def allowed(self, request: Request, authorization: str | None) -> Caller:
        """The caller whose key `authorization` holds.

        Raises:
            PreceptorError: it is no valid key, or has none of the scopes.
        """
        keyring: Keyring = request.app.state.keyring
        caller = keyring.caller(authorization)
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
