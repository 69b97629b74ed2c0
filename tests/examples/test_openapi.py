"""docs/openapi.json is what the schemas say."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from preceptor_clients.sdk import openapi

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"


def test_the_document_is_up_to_date():
    assert DOCUMENT.read_text() == openapi.as_text(), "preceptor expert openapi > docs/openapi.json"


def test_every_reference_resolves():
    page = openapi.expert_openapi()

    names = set(re.findall(r"#/components/schemas/([^'\"]+)", str(page)))

    assert names <= set(page["components"]["schemas"])
    assert {"LogprobsCall", "PrefixQuery", "PrefixAnswer", "ProblemDetails"} <= names


def test_every_field_of_the_document_is_described():
    page = json.loads(DOCUMENT.read_text())

    bare = [place for place, field in fields(page, "") if not field.get("description", "").strip()]

    assert sum(1 for _ in fields(page, "")) > 90
    assert bare == []


def fields(node: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property and parameter of a document, with where it stands."""
    if isinstance(node, list):
        for number, each in enumerate(node):
            yield from fields(each, f"{place}[{number}]")
    if not isinstance(node, dict):
        return
    for name, field in node.get("properties", {}).items():
        yield f"{place}.{name}", field
    for field in node.get("parameters", []):
        yield f"{place}.{field['name']}", field
    for key, each in node.items():
        yield from fields(each, f"{place}.{key}")
