"""The routes of an expert as an OpenAPI document, made from the schemas.

It describes the JSON rendering, which is all that a service in another language needs; the frame is
described in docs/reference/wire-format.md. `docs/openapi.json` is this document, and a test keeps
it so.
"""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from preceptor_clients.contract import wire
from preceptor_clients.contract.errors import PROBLEM_MEDIA_TYPE, ProblemDetails
from preceptor_clients.contract.schemas import (
    LogprobsCall,
    LogprobsReply,
    ServiceInfo,
    WeightsOffer,
)
from preceptor_clients.contract.tokenization import TokenIds, TokenizeCall

_REFS: Final = "#/components/schemas/{model}"
_ABOUT: Final = (
    "What an expert serves. Entry t is the distribution over response token t given everything "
    "before it. Log-probs are natural, of the whole vocabulary, at temperature 1; null where they "
    "are missing, never 0.0. Test vectors: tests/contract/vectors. Conformance: "
    "`preceptor expert check URL`."
)


def expert_openapi() -> dict[str, Any]:
    models: list[tuple[type[BaseModel], Any]] = [
        (LogprobsCall, "validation"),
        (WeightsOffer, "validation"),
        (TokenizeCall, "validation"),
        (TokenIds, "validation"),
        (LogprobsReply, "validation"),
        (ServiceInfo, "validation"),
        (ProblemDetails, "validation"),
    ]
    _, schemas = models_json_schema(models, ref_template=_REFS)
    return {
        "openapi": "3.1.0",
        "info": {"title": "A preceptor expert", "version": "1", "description": _ABOUT},
        "security": [{"key": []}],
        "paths": _paths(),
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def as_text() -> str:
    """The document, as stored in docs/openapi.json."""
    return json.dumps(expert_openapi(), indent=1, sort_keys=True) + "\n"


def _paths() -> dict[str, Any]:
    health: dict[str, Any] = {
        "security": [],
        "responses": {"200": {"description": "Yes."}, "503": {"description": "Not yet."}},
    }
    return {
        "/livez": {"get": health | {"summary": "Whether the process runs."}},
        "/readyz": {"get": health | {"summary": "Whether it can answer now."}},
        "/v1/info": {
            "get": {
                "summary": "Name, version, capabilities and limits.",
                "responses": _responses("200", ServiceInfo),
            }
        },
        "/v1/logprobs": {
            "post": {
                "summary": "One result per query, in order: an answer, a problem, or a promise.",
                "requestBody": _body(LogprobsCall),
                "responses": _responses("200", LogprobsReply),
            }
        },
        "/v1/tokenize": {
            "post": {
                "summary": "Ids of a text or a chat; only where `tokenizer` is declared.",
                "requestBody": _body(TokenizeCall),
                "responses": _responses("200", TokenIds),
            }
        },
        "/v1/weights": {
            "put": {
                "summary": "Versions that may be loaded; only where `weights` is declared.",
                "requestBody": _body(WeightsOffer),
                "responses": _responses("204", None),
            }
        },
    }


def _body(cls: type[BaseModel]) -> dict[str, Any]:
    return {"required": True, "content": {wire.JSON: {"schema": _ref(cls)}}}


def _responses(status: str, cls: type[BaseModel] | None) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "Done."}
    if cls is not None:
        good["content"] = {wire.JSON: {"schema": _ref(cls)}}
    problem = {
        "description": "ProblemDetails details (RFC 9457) that name the field at fault.",
        "content": {PROBLEM_MEDIA_TYPE: {"schema": _ref(ProblemDetails)}},
    }
    return {status: good, "default": problem}


def _ref(cls: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REFS.format(model=cls.__name__)}
