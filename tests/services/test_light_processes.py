"""Gateway and dispatcher load no model's library, so that they start fast and stay small."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "matplotlib", "scipy", "numba", "datasets")


@pytest.mark.parametrize("module", ["gateway.__main__", "dispatcher.command"])
def test_a_process_of_the_answer_path_loads_nothing_heavy(module: str) -> None:
    program = (
        f"import sys, preceptor_services.{module}\nprint([m for m in {HEAVY} if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.stdout.strip() == "[]", done.stderr
