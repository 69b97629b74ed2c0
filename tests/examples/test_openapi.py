"""docs/openapi.json is what the schemas say."""

import re
from pathlib import Path

from preceptor_clients.sdk import openapi

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"


def test_the_document_is_up_to_date():
    assert DOCUMENT.read_text() == openapi.as_text(), "preceptor expert openapi > docs/openapi.json"


def test_every_reference_resolves():
    page = openapi.expert_openapi()

    names = set(re.findall(r"#/components/schemas/([^'\"]+)", str(page)))

    assert names <= set(page["components"]["schemas"])
    assert {"LogprobsCall", "PrefixQuery", "PrefixAnswer", "ProblemDetails"} <= names
