"""Best-of-k, multi-turn and training at test time on the hard tail, kept with the other results.

    python benchmarks/discovery.py

Runs `preceptor solve` as a user does (what is there is not run again), then copies the report into
`benchmarks/results/discovery.{json,md,png}`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
FOLDER = Path("runs/solve")
SETTINGS = ["--questions", "20", "--attempts", "256", "--seeds", "5"]


def main() -> None:
    """Chooses the questions once, runs what is missing, and keeps the report."""
    solve = [sys.executable, "-m", "preceptor_clients.cli", "solve"]
    if not (FOLDER / "base_rates.json").exists():
        subprocess.run([*solve, "base-rates", "--out", str(FOLDER)], check=True)
    subprocess.run([*solve, "run", "--out", str(FOLDER), *SETTINGS], check=True)
    for ending in ("json", "md", "png"):
        shutil.copy(FOLDER / f"discovery.{ending}", RESULTS / f"discovery.{ending}")
    print(f"kept {RESULTS / 'discovery.md'}")


if __name__ == "__main__":
    main()
