"""A comparison of methods, with its raw numbers kept beside the other results.

    python benchmarks/compare.py fast [any option of `preceptor compare`]

Runs `preceptor compare` as a user does (finished runs are kept and not repeated), then copies the
report into `benchmarks/results/compare-NAME.{json,md,png}` and its curves into
`compare-NAME-curves.png`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def main(name: str, options: list[str]) -> None:
    """Runs what is missing, and keeps the report."""
    folder = Path("runs/compare") / name
    command = [sys.executable, "-m", "preceptor_clients.cli", "compare", name]
    subprocess.run([*command, "--out", str(folder), *options], check=True)
    RESULTS.mkdir(exist_ok=True)
    for ending in ("json", "md", "png"):
        shutil.copy(folder / f"compare.{ending}", RESULTS / f"compare-{name}.{ending}")
    shutil.copy(folder / "curves.png", RESULTS / f"compare-{name}-curves.png")
    print(f"kept {RESULTS / f'compare-{name}.md'}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "fast", sys.argv[2:])
