"""S8: whatever fits the published schema, or nearly, is answered by it: every route, every role.

Schemathesis makes the requests from `/openapi.json`; the gauntlet makes more of them, in each role.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from .served import Served, serving_gateway

CHECKS = [
    not_a_server_error,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.status_code_conformance,
]
ROLES = ["trainer", "dispatcher", "expert", "reader", "nobody"]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_gateway(tmp_path_factory.mktemp("gateway")) as served:
        yield served


def _operations(gateway: Served) -> Iterator[schemathesis.APIOperation]:
    for result in schemathesis.openapi.from_dict(gateway.openapi).get_all_operations():
        yield result.ok()


def _fuzz(gateway: Served, role: str, num_requests: int) -> int:
    """Requests every operation so often; returns how many operations there are."""
    operations = list(_operations(gateway))
    for operation in operations:
        _fuzz_one(gateway, operation, gateway.headers(role), num_requests)
    return len(operations)


def _fuzz_one(
    gateway: Served,
    operation: schemathesis.APIOperation,
    headers: dict[str, str],
    num_requests: int,
) -> None:
    @settings(
        max_examples=num_requests,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=operation.as_strategy())
    def answers_by_its_schema(case: schemathesis.Case) -> None:
        response = case.call(base_url=gateway.url, headers=headers)
        case.validate_response(response, checks=CHECKS)
        if response.status_code < 300 and operation.definition.raw.get("security"):
            nobody = case.call(base_url=gateway.url, headers=gateway.headers("nobody"))
            assert nobody.status_code == 401

    answers_by_its_schema()


def test_S8_every_route_answers_by_its_schema(gateway: Served) -> None:
    assert _fuzz(gateway, "admin", 2) > 60


@pytest.mark.gauntlet
def test_S8_every_route_answers_hundreds_of_requests_by_its_schema(gateway: Served) -> None:
    assert _fuzz(gateway, "admin", 300) > 60


@pytest.mark.gauntlet
@pytest.mark.parametrize("role", ROLES)
def test_S8_every_route_answers_every_role_by_its_schema(gateway: Served, role: str) -> None:
    assert _fuzz(gateway, role, 50) > 60


def test_S8_a_route_that_needs_a_key_says_so_in_the_schema(gateway: Served) -> None:
    open_routes = {"/livez", "/readyz"}
    silent = {
        path
        for path, methods in gateway.openapi["paths"].items()
        for operation in methods.values()
        if not operation.get("security")
    }

    assert silent == open_routes
