"""The import rules of `pyproject.toml` refuse what they are there to refuse.

One import that breaks each contract is planted in a copy of the packages; the linters must name
every one of them. That the packages themselves keep the rules is `make lint`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "clients": "preceptor_clients",
    "services": "preceptor_services",
    "trainer": "preceptor_trainer",
}
PLANTED = {
    "packages": ("preceptor_trainer.loop", "import preceptor_services.kit.clock"),
    "light": ("preceptor_clients.sdk.answers", "import torch"),
    "clients": ("preceptor_clients.contract.grid", "import preceptor_clients.sdk.answers"),
    "services": ("preceptor_services.kit.clock", "import preceptor_services.store.database"),
    "asked": ("preceptor_services.questions.sweep", "import preceptor_services.feedback.executor"),
    "gateway": ("preceptor_services.gateway.http.auth", "import preceptor_services.gateway.parts"),
    "store": (
        "preceptor_services.store.tables.questions",
        "import preceptor_services.store.questions.jobs",
    ),
    "trainer": ("preceptor_trainer.model.batch", "import preceptor_trainer.loop"),
    "circles": ("preceptor_trainer.sampling.params", "import preceptor_trainer.collect.student"),
    "broker": ("preceptor_services.questions.submit", "import redis"),
    "database": ("preceptor_services.gateway.routes.health", "import sqlalchemy"),
    "http": ("preceptor_trainer.commands.run", "import httpx"),
}


def contracts() -> dict[str, str]:
    page = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {c["id"]: c["name"] for c in page["tool"]["importlinter"]["contracts"]}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What import-linter says of the packages with every planted import."""
    folder = tmp_path_factory.mktemp("planted")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for part, package in PACKAGES.items():
        shutil.copytree(
            ROOT / part / package,
            folder / part / package,
            ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"),
        )
    for module, line in PLANTED.values():
        [part] = [p for p, package in PACKAGES.items() if module.startswith(package + ".")]
        path = folder / part / (module.replace(".", "/") + ".py")
        path.write_text(path.read_text() + f"\n{line}\n")
    linter = Path(sys.executable).with_name("lint-imports")
    places = os.pathsep.join(str(folder / part) for part in PACKAGES)
    done = subprocess.run(
        [linter, "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": places},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return re.sub(r"\s+", " ", done.stdout)


def test_every_contract_has_a_planted_import() -> None:
    assert set(PLANTED) == set(contracts())


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_import_breaks_its_contract(name: str, report: str) -> None:
    assert re.search(rf"{re.escape(contracts()[name])} BROKEN", report)


def test_the_optimiser_is_touched_in_one_place(tmp_path: Path) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    place = "trainer/preceptor_trainer/collect/planted.py"
    done = subprocess.run(
        [ruff, "check", "--select", "TID251", "--stdin-filename", place, "-"],
        cwd=ROOT,
        input="import torch\n\nSTEP = torch.optim.SGD\n",
        capture_output=True,
        text=True,
    )

    assert "TID251" in done.stdout
    assert "learner/learner.py" in done.stdout
