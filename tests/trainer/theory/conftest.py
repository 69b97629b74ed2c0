from pathlib import Path

import pytest

from preceptor_trainer.theory.finding import Finding
from preceptor_trainer.theory.page import find, read

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="session")
def docs() -> Path:
    return DOCS


@pytest.fixture(scope="session")
def found() -> dict[str, Finding]:
    return find()


@pytest.fixture(scope="session")
def committed() -> dict[str, Finding]:
    return read(DOCS / "figures" / "theory" / "numbers.json")
