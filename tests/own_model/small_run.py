"""A folder with everything that a small run of a tiny model needs."""

from __future__ import annotations

import json
from pathlib import Path

from . import tiny

JUDGE = """
from preceptor_clients.sdk import Feedback


def judge(row, response):
    return Feedback(0, f"No, {len(response)} letters.")
"""


def small_run(folder: Path, run: str) -> None:
    """Writes the run's file beside a model, eight rows, two held-out ones and a judge."""
    tiny.llama(folder / "model")
    (folder / "run.toml").write_text(run)
    (folder / "judge.py").write_text(JUDGE)
    for name, first, count in (("rows", 0, 8), ("held_out", 8, 2)):
        rows = [{"prompt": f"What is {i} + 1?"} for i in range(first, first + count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
