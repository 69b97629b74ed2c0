"""Thresholds of success and names of sources stand with the task or source that owns them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OWNERS = {
    '"executor"': {
        "services/preceptor_services/feedback/executor/config.py",
        "trainer/preceptor_trainer/tasks/programming_by_example/task.py",
    },
    '"execution"': {
        "clients/preceptor_clients/contract/execution.py",
        "clients/preceptor_clients/contract/schemas.py",
    },
    r"score\w*( or 0\.0\))? *(>=|<) *0\.5": set[str](),
}


def code() -> dict[str, str]:
    """Every module, without docstrings of its head."""
    found: dict[str, str] = {}
    for part in ("clients", "services", "trainer"):
        for path in (ROOT / part).rglob("*.py"):
            text = path.read_text()
            found[str(path.relative_to(ROOT))] = text.split('"""', 2)[-1]
    return found


@pytest.mark.parametrize("word", OWNERS)
def test_a_word_stands_with_its_owner_alone(word: str) -> None:
    places = {name for name, text in code().items() if re.search(word, text)}

    assert places <= OWNERS[word]
    assert places or word.startswith("score"), "the owner itself was not found: is this read right?"
