"""The page of guarantees: tests that it names exist, numbers in tests' names are explained."""

import os
import re
from pathlib import Path

import pytest
from docs_pages import ROOT

PAGE = Path("docs/explanation/guarantees.md")
TEXT = (ROOT / PAGE).read_text()
NAMED = re.findall(r"\[`(test_\w+)`\]\(([^)]+)\)", TEXT)
EXPLAINED = set(re.findall(r'<span id="(\w+)"></span>\*\*', TEXT))
TESTS = {
    name: file
    for file in sorted((ROOT / "tests").rglob("*.py"))
    for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
}


@pytest.mark.parametrize(("name", "link"), sorted(set(NAMED)))
def test_a_test_that_is_named_is_in_the_file_that_is_linked(name, link):
    file = ROOT / os.path.normpath(PAGE.parent / link)

    assert re.search(rf"^(async )?def {name}\(", file.read_text(), re.MULTILINE)


def test_every_number_in_a_tests_name_is_explained():
    numbers = {
        match[1].lower()
        for name in TESTS
        if (match := re.match(r"test_([rihsxpRIHSXP]\d+)_", name))
    }

    assert numbers
    assert numbers - EXPLAINED == set()


def test_every_promise_names_a_test_or_says_that_nothing_shows_it():
    lines = [line for line in TEXT.splitlines() if line.startswith('| <span id="')]

    silent = [line[:40] for line in lines if not re.search(r"`test_|/tests/|ot shown", line)]
    assert len(lines) == len(EXPLAINED) > 40
    assert silent == []


def test_a_test_with_a_number_stands_beside_its_promise():
    shown = {name for name, _ in NAMED}
    numbered = {
        name: match[1].lower()
        for name in TESTS
        if (match := re.match(r"test_([rihsxpRIHSXP]\d+)_", name))
    }

    for number in set(numbered.values()):
        tests = {name for name, its in numbered.items() if its == number}
        assert tests & shown, f"{number}: none of {sorted(tests)} is on the page"
