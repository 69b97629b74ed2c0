"""The OpenAPI page, `/openapi.json`: bodies in both renderings, one schema for all problems.

The project's own codec reads the bodies, so the framework does not know their types. Each route
names its type (`takes`), and this module adds the referenced schemas to the page's components.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from preceptor_clients.contract import wire
from preceptor_clients.contract.errors import PROBLEM_MEDIA_TYPE, ProblemDetails

_REFS: Final = "#/components/schemas/{model}"
_DEFINITIONS: Final = "$defs"
_FRAMEWORK_ERRORS: Final = ("HTTPValidationError", "ValidationError")


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
        for methods in page["paths"].values():
            for operation in methods.values():
                _complete(operation, schemas)
        app.openapi_schema = page
    return app.openapi_schema


def _complete(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
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
