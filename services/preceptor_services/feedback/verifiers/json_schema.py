"""The response has to be JSON that fits a schema."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from preceptor_clients.sdk.judging import Feedback, Response
from preceptor_services.feedback.verifiers.columns import value_of

_FENCED: Final = re.compile(r"```(?:json)?[^\S\n]*\n(.*?)(?:\n[^\S\n]*```|\Z)", re.DOTALL)
_SHOWN: Final = 5


def json_schema(
    row: Mapping[str, Any],
    response: Response,
    *,
    schema: dict[str, Any] | None = None,
    column: str = "schema",
) -> Feedback:
    """Checks the response against a JSON schema: all of it, or its last fenced block of code.

    Args:
        row: The row of data.
        response: The student's text.
        schema: The schema of all rows; the row's own where absent.
        column: Column with the schema of a row: an object, or JSON of one. References to other
            addresses are not fetched.
    """
    checker = _checker(value_of(row, column) if schema is None else schema, column)
    blocks = _FENCED.findall(response)
    text = blocks[-1] if blocks else response
    cut = "the response was cut off; " if response.cut_off else ""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        return Feedback(0.0, f"{cut}the response is not JSON: {error}")
    errors = sorted(checker.iter_errors(value), key=lambda error: str(error.json_path))
    if not errors:
        return Feedback(1.0)
    lines = [f"{error.json_path}: {error.message[:200]}" for error in errors[:_SHOWN]]
    more = f"; and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
    return Feedback(0.0, cut + "; ".join(lines) + more)


# A newer one may judge otherwise, so it is part of the source's version.
json_schema.libraries = ("jsonschema",)  # type: ignore[attr-defined]


def _checker(schema: Any, column: str) -> Any:
    library = _library("jsonschema")
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise ValueError(f"the column {column!r} is not JSON: {error}") from None
    checker = library.validators.validator_for(schema, library.Draft202012Validator)
    try:
        checker.check_schema(schema)
    except library.SchemaError as error:
        raise ValueError(f"the schema is not one: {error.json_path}: {error.message}") from None
    # A registry of its own: without one the library would fetch references from the network.
    return checker(schema, registry=_library("referencing").Registry())


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{error.name} is not installed, which the verifier json_schema needs; "
            "pip install 'preceptor[json-schema]'"
        ) from error


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON value")
