"""Writes the questions: products of two numbers from 2 to 12, in four wordings.

    python examples/multiply/make_data.py

Training, validation and held-out questions share no pair of factors, in either order. The recipe
was chosen with the validation questions; the held-out ones are for the results alone.
"""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

WORDINGS = (
    "What is {a} times {b}? Answer with the number only.",
    "Compute {a} * {b}. Answer with the number only.",
    "{a} boxes hold {b} apples each. How many apples are there? Answer with the number only.",
    "Multiply {a} by {b}. Answer with the number only.",
)
SPLITS = {"train": 41, "validation": 10, "held_out": 15}
"""Pairs of factors, of 66."""


def main() -> None:
    pairs = list(itertools.combinations_with_replacement(range(2, 13), 2))
    random.Random(0).shuffle(pairs)
    start = 0
    for name, count in SPLITS.items():
        ordered = sorted({p for a, b in pairs[start : start + count] for p in ((a, b), (b, a))})
        rows = [
            {"prompt": wording.format(a=a, b=b), "answer": a * b}
            for a, b in ordered
            for wording in WORDINGS
        ]
        random.Random(1).shuffle(rows)
        # As many as the tutorial's table says, so that a share reads as a percentage.
        rows = rows[: 100 if name == "held_out" else None]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        Path(__file__).with_name(f"{name}.jsonl").write_text(text)
        print(f"{name}.jsonl: {len(rows)} questions of {count} pairs")
        start += count


if __name__ == "__main__":
    main()
