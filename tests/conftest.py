"""The long tests first, so that two workers end together."""

from __future__ import annotations

import pytest


def _rank(item: pytest.Item) -> int:
    if item.get_closest_marker("e2e") is not None:
        return 0
    return 1 if item.get_closest_marker("slow") is not None else 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the order otherwise: workers take whole files, in the order of their first test."""
    items.sort(key=_rank)
