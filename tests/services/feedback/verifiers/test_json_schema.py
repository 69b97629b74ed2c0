"""Claims about responses that have to fit a JSON schema."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from preceptor_clients.sdk import Response
from preceptor_services.feedback.verifiers.json_schema import json_schema

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "ages": {"items": {"type": "integer"}}},
    "required": ["name"],
}


@pytest.mark.parametrize("row", [{"schema": SCHEMA}, {"schema": json.dumps(SCHEMA)}])
@pytest.mark.parametrize(
    "response",
    [
        '{"name": "Bo", "ages": [1, 2]}',
        'An example:\n```json\n{"ages": []}\n```\nand mine:\n```json\n{"name": "Bo"}\n```\nDone.',
        '```\n{"name": "Bo"}\n```',
    ],
)
def test_json_that_fits_scores_one(row: dict[str, Any], response: str) -> None:
    found = json_schema(row, Response(response))

    assert (found.score, found.text) == (1.0, None)


@pytest.mark.parametrize(
    ("response", "said"),
    [
        ('{"ages": [1, "two"]}', "$: 'name' is a required property; $.ages[1]: 'two' is not"),
        ('{"name": NaN}', "the response is not JSON: NaN is no JSON value"),
        ('Here: {"name": "Bo"}', "the response is not JSON: Expecting value"),
        ("", "the response is not JSON"),
        ("[" * 100_000, "the response is not JSON: maximum recursion depth"),
    ],
)
def test_what_does_not_fit_scores_zero_and_each_place_is_named(response: str, said: str) -> None:
    found = json_schema({}, Response(response), schema=SCHEMA)

    assert found.score == 0.0
    assert said in str(found.text)


def test_only_the_first_places_are_listed() -> None:
    found = json_schema({}, Response(json.dumps(["x"] * 9)), schema={"items": {"type": "null"}})

    assert str(found.text).endswith("$[4]: 'x' is not of type 'null'; and 4 more")


@pytest.mark.parametrize("schema", ["{broken", {"type": "objct"}, {"type": 3}])
def test_a_schema_that_is_none_is_an_error(schema: Any) -> None:
    with pytest.raises(ValueError, match="schema"):
        json_schema({"schema": schema}, Response("{}"))


def test_a_schema_elsewhere_is_not_fetched() -> None:
    with pytest.raises(Exception, match="Unresolvable"):
        json_schema({}, Response("{}"), schema={"$ref": "http://127.0.0.1:9/schema.json"})


def test_without_the_library_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)

    with pytest.raises(ValueError, match=r"pip install 'preceptor\[json-schema\]'"):
        json_schema({}, Response("{}"), schema=SCHEMA)
