"""The routes of the gateway and of an expert, from their OpenAPI documents."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts

from preceptor_clients.sdk.openapi import expert_openapi
from preceptor_services.gateway.app import create_app
from preceptor_services.jobs.streams import JobStreams
from preceptor_services.kit.blobs import LocalBlobs
from preceptor_services.kit.settings import load_settings
from preceptor_services.store.database import Database
from reference.markdown import anchor, code, filled_table, heading, join, slug, table

Json = Mapping[str, Any]

GATEWAY = """
# HTTP API of the gateway

Bodies are JSON, or a [frame](wire-format.md) with the same content. Keys travel as `Authorization:
Bearer KEY`. Any call may fail with problem details; the codes are in [Errors](errors.md). `GET
/openapi.json` of a running gateway is the document from which this page is made.
"""
EXPERT = """
# HTTP API of an expert

What a service must answer to be an expert, in any language. [The wire format](wire-format.md) has
the conventions, [plug in an expert](../how-to/plug-in-an-expert.md) the way there, and
[`openapi.json`](../openapi.json) the document from which this page is made.
"""


def gateway_page() -> str:
    """Every route of the gateway and every message."""
    return _page(GATEWAY, gateway_openapi())


def expert_page() -> str:
    """Every route of an expert and every message."""
    return _page(EXPERT, expert_openapi())


def gateway_openapi() -> dict[str, Any]:
    """The document that a gateway serves, with `x-callers`; nothing is started or connected."""
    return asyncio.run(_gateway_openapi())


async def _gateway_openapi() -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "preceptor.toml"
        path.write_text('[gateway]\nhash_key_file = "hash.key"\n')
        path.with_name("hash.key").write_text("0" * 64)
        settings = load_settings(path, env={})
        g = settings.gateway
        database = Database.open(g.database)
        queue = JobStreams.connect(g.broker, max_length=g.max_queue)
        try:
            app = create_app(settings, database, LocalBlobs(g.blobs), queue)
            document = app.openapi()
            _add_scopes(document, app)
            return document
        finally:
            await queue.aclose()
            await database.aclose()


def _add_scopes(document: dict[str, Any], app: FastAPI) -> None:
    for context in iter_route_contexts(app.routes):
        if isinstance(context.original_route, APIRoute):
            callers = list(dict.fromkeys(_callers(context.original_route.dependant)))
            for method in context.methods or ():
                operation = document["paths"].get(context.path, {}).get(method.lower(), {})
                operation["x-callers"] = callers


def _callers(dependant: Dependant) -> Iterator[str]:
    """Whose keys open a route: dependencies say it by `scopes`, or by the `role` of a person."""
    scopes: frozenset[str] | None = getattr(dependant.call, "scopes", None)
    role: str | None = getattr(dependant.call, "role", None)
    if scopes is not None:
        listed = " or ".join(code(scope) for scope in [*sorted(scopes - {"admin"}), "admin"])
        yield f"a key with the scope {listed}"
    if role is not None:
        yield f"a person who is at least {code(role)}"
    for inner in dependant.dependencies:
        yield from _callers(inner)


def routes(document: Json) -> Iterator[tuple[str, str, Json]]:
    """Method, path and operation of every route, by area and path."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield method.upper(), path, operation


def _page(introduction: str, document: Json) -> str:
    areas: dict[str, list[str]] = {}
    rows: list[list[str]] = []
    for method, path, operation in routes(document):
        areas.setdefault(_area(operation), []).append(_route(method, path, operation))
        link = f"[`{method} {path}`](#{_address(method, path)})"
        rows.append([link, _about(operation).split("\n\n")[0]])
    schemas: Json = document["components"]["schemas"]
    return join(
        introduction,
        table(["route", "what it does"], rows),
        *(join(f"## {area.capitalize()}", *found) for area, found in areas.items()),
        "## Messages",
        *(_schema(name, schemas[name]) for name in sorted(schemas)),
    )


def _area(operation: Json) -> str:
    return str(operation.get("tags", ["routes"])[0])


def _address(method: str, path: str) -> str:
    return slug(f"{method} {path}")


def _about(operation: Json) -> str:
    return str(operation.get("description") or operation.get("summary") or "").strip()


def _route(method: str, path: str, operation: Json) -> str:
    return join(
        heading(3, f"`{method} {path}`", _address(method, path)),
        _about(operation),
        _caller(operation),
        _parameters(operation),
        _body(operation),
        _answers(operation),
    )


def _caller(operation: Json) -> str:
    if "x-callers" not in operation:
        return ""
    return f"Who may: {', or '.join(operation['x-callers']) or 'everybody, without a key'}."


def _parameters(operation: Json) -> str:
    rows = [
        [
            code(parameter["name"]),
            parameter["in"],
            _type(parameter["schema"]),
            _default(parameter["schema"], required=parameter.get("required", False)),
            str(parameter.get("description", "")),
        ]
        for parameter in operation.get("parameters", [])
    ]
    headings = ["parameter", "in", "type", "default", "meaning"]
    return filled_table(headings, rows) if rows else ""


def _body(operation: Json) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema")
    if schema is None:
        return f"Body: {', '.join(code(kind) for kind in content)}." if content else ""
    if "properties" in schema:
        title = str(schema.get("title", ""))
        return join(f"Body: `{title}`", _properties(title, schema, marks=False))
    return f"Body: {_type(schema)}"


def _answers(operation: Json) -> str:
    lines: list[str] = []
    for status, answer in operation["responses"].items():
        content = answer.get("content", {})
        schema = content.get("application/json", {}).get("schema")
        what = _type(schema) if schema else ", ".join(code(kind) for kind in content)
        if status == "default":
            lines.append(f"- otherwise: {_type(_first_schema(content))}, see [Errors](errors.md)")
        else:
            about = answer["description"].rstrip(".").replace("Successful Response", "done")
            lines.append(f"- {code(status)}: {what or about}")
    return "Answers:\n\n" + "\n".join(lines)


def _first_schema(content: Json) -> Json:
    nothing: Json = {}
    return next((kind["schema"] for kind in content.values() if "schema" in kind), nothing)


def _schema(name: str, schema: Json) -> str:
    about = str(schema.get("description", "")).strip()
    body = _properties(name, schema) if "properties" in schema else _type(schema)
    return join(heading(3, code(name), name), about, body)


def _properties(name: str, schema: Json, *, marks: bool = True) -> str:
    required = set(schema.get("required", ()))
    rows = [
        [
            (anchor(f"{name}-{key}") if marks else "") + code(key),
            _type(value),
            _default(value, required=key in required),
            str(value.get("description", "")),
        ]
        for key, value in schema["properties"].items()
    ]
    return filled_table(["field", "type", "default", "meaning"], rows) if rows else "No fields."


def _default(schema: Json, *, required: bool) -> str:
    if required:
        return "required"
    default = schema.get("default")
    if default is None or default in ([], {}):
        return ""
    return code("true" if default is True else "false" if default is False else default)


def _type(schema: Json) -> str:
    """One schema in words; messages as links."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return f"[{name}](#{slug(name)})"
    for kind in ("anyOf", "oneOf", "allOf"):
        if kind in schema:
            parts = [_type(part) for part in schema[kind] if part.get("type") != "null"]
            return " or ".join(dict.fromkeys(parts)) or "null"
    if "enum" in schema:
        return " or ".join(code(f'"{value}"') for value in schema["enum"])
    if "const" in schema:
        return code(f'"{schema["const"]}"')
    return _simple(schema)


def _simple(schema: Json) -> str:
    kinds: Any = schema.get("type", "any")
    kind = str(kinds if isinstance(kinds, str) else next(k for k in kinds if k != "null"))
    if kind == "array":
        inner: Json = cast("Json", schema.get("items") or schema.get("prefixItems", [{}])[0])
        return f"list of {_type(inner)}" if inner else "list"
    if kind == "object":
        values = cast("Json | bool | None", schema.get("additionalProperties"))
        return f"object of {_type(values)}" if isinstance(values, Mapping) and values else "object"
    return " ".join([{"string": "text"}.get(kind, kind), *_limits(schema)])


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"


def _limits(schema: Json) -> list[str]:
    if "minimum" in schema and "maximum" in schema:
        return [f"from {_number(schema['minimum'])} to {_number(schema['maximum'])}"]
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    return [f"{sign} {_number(schema[key])}" for key, sign in signs.items() if key in schema]
