"""The OpenAPI page, `/openapi.json`: bodies in both renderings, one schema for all problems.

The project's own codec reads the bodies, so the framework does not know their types. Each route
names its type (`takes`), and this module adds the referenced schemas to the page's components.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel

from preceptor_clients.contract import wire
from preceptor_clients.contract.errors import PROBLEM_MEDIA_TYPE, ProblemDetails
from preceptor_services.gateway.http.auth import AsksForKey

_REFS: Final = "#/components/schemas/{model}"
_DEFINITIONS: Final = "$defs"
_KEY: Final = "key"
_FRAMEWORK_ERRORS: Final = ("HTTPValidationError", "ValidationError")
_PARAMETERS: Final = {
    "after": "Where the page begins: the `after` or `cursor` of the page before; absent at first.",
    "answer_key": "Key of the answer.",
    "claim_id": "Id of the claim.",
    "expert": "Name of the expert in the deployment.",
    "fingerprint": "Fingerprint of the vocabulary.",
    "item_id": "Id of the item.",
    "keep": "Whether an existing round keeps its rules.",
    "limit": "Largest number of entries in the page.",
    "lineage": "Name of the lineage within the run.",
    "mine": "Only items that the caller has worked on.",
    "job_id": "Id of the job.",
    "name": "Name of the expert, the source or the person.",
    "policy": "Name of the policy, which is that of its run.",
    "position": "Position of the token in the response, from 0.",
    "round": "Only of this round.",
    "round_name": "Name of the round.",
    "run": "Name of the run.",
    "sha256": "SHA-256 of the bytes, in hex.",
    "solved": "Only rollouts that are judged and solved, or judged and failed.",
    "start": "Position of the first token, from 0.",
    "state": "Only items in this state.",
    "step": "Index of the step; the first is 0.",
    "stop": "Position after the last token.",
    "target_id": "Id of the target.",
    "rollout_id": "Id of the rollout.",
    "ticket_id": "Id of the ticket.",
}
"""A parameter means the same in every route."""


NO_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": False,
        "content": {"application/json": {"schema": {"type": "object", "maxProperties": 0}}},
    }
}
"""OpenAPI description of a body that the route ignores."""


def takes(cls: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI description of a route's request body."""
    return {
        "requestBody": {
            "required": True,
            "content": {
                wire.JSON: {"schema": cls.model_json_schema(ref_template=_REFS)},
                wire.FRAME: {"schema": {"type": "string", "format": "binary"}},
            },
        }
    }


def describe(app: FastAPI) -> dict[str, Any]:
    """The whole page; it is generated once."""
    if app.openapi_schema is None:
        page = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schemas: dict[str, Any] = page.setdefault("components", {}).setdefault("schemas", {})
        for name in _FRAMEWORK_ERRORS:
            schemas.pop(name, None)
        schemas["ProblemDetails"] = _lifted(
            ProblemDetails.model_json_schema(ref_template=_REFS), schemas
        )
        page["components"]["securitySchemes"] = {_KEY: {"type": "http", "scheme": "bearer"}}
        closed = _routes_that_ask_for_a_key(app)
        for path, methods in page["paths"].items():
            for method, operation in methods.items():
                _complete(operation, schemas)
                if (method.upper(), path) in closed:
                    operation["security"] = [{_KEY: []}]
        app.openapi_schema = page
    return app.openapi_schema


def returns(media_type: str, *, of_bytes: bool = False) -> dict[int | str, dict[str, Any]]:
    """OpenAPI description of a successful reply that is not JSON, as `responses` of a route."""
    schema = {"type": "string", **({"format": "binary"} if of_bytes else {})}
    return {200: {"content": {media_type: {"schema": schema}}}}


def _routes_that_ask_for_a_key(app: FastAPI) -> set[tuple[str, str | None]]:
    return {
        (method, context.path)
        for context in iter_route_contexts(app.routes)
        if isinstance(context.original_route, APIRoute)
        and _asks_for_key(context.original_route.dependant)
        for method in context.methods or ()
    }


def _asks_for_key(dependant: Dependant) -> bool:
    return isinstance(dependant.call, AsksForKey) or any(
        _asks_for_key(inner) for inner in dependant.dependencies
    )


def _complete(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", []):
        parameter.setdefault("description", _PARAMETERS.get(parameter["name"]))
    responses: dict[str, Any] = operation["responses"]
    responses.pop("422", None)  # The framework's response, which is never sent.
    responses["default"] = {
        "description": "Problem details (RFC 9457) that name the field at fault.",
        "content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": _REFS.format(model="ProblemDetails")}}},
    }
    body = operation.get("requestBody", {}).get("content", {}).get(wire.JSON)
    if body is not None:
        body["schema"] = _lifted(body["schema"], schemas)


def _lifted(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """`schema` without its definitions, which are moved to `schemas`."""
    for name, definition in schema.get(_DEFINITIONS, {}).items():
        schemas.setdefault(name, definition)
    return {key: value for key, value in schema.items() if key != _DEFINITIONS}
