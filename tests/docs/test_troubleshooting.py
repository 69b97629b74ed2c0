"""Messages on the troubleshooting page are messages of the code."""

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest
from docs_pages import ROOT, blocks

MESSAGES = [
    code.strip()
    for place, code in blocks("text")
    if place.startswith("docs/how-to/troubleshooting")
]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_one_of_the_codes(message):
    wanted = re.sub(r"<[\w ]+>", "<>", message)

    assert any(wanted in text for text in texts())


def test_there_are_twenty_and_each_says_cause_and_cure():
    page = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text()
    entries = page.split("\n### ")[1:]

    assert len(entries) >= 20
    assert all("**Cause.**" in entry and "**What to do.**" in entry for entry in entries)
    assert all(entry.count("```") == 2 for entry in entries)


@cache
def texts() -> tuple[str, ...]:
    """Every text of the code, `<>` in the place of what is filled in."""
    files = [f for room in ("clients", "services", "trainer") for f in (ROOT / room).rglob("*.py")]
    trees = [ast.parse(file.read_text()) for file in files]
    found = [text for tree in trees for text in _texts(tree)]
    shell = re.sub(r"\{[^}]*\}", "<>", (ROOT / "scripts" / "install").read_text())
    return (*found, shell)


def _texts(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [v.value if isinstance(v, ast.Constant) else "<>" for v in node.values]
            yield "".join(str(part) for part in parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%[sd]", "<>", node.value)
