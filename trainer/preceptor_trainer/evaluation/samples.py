"""The responses of an evaluation with their verdicts, one line each, for people to read.

Equal responses to one problem are one line with their number.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from preceptor_clients.contract.json_lines import read_lines
from preceptor_clients.kit.files import write_whole

FOLDER: Final = "evaluations"
"""Folder of a run's evaluations, in that of the run."""
SUFFIX: Final = ".samples.jsonl"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A response to a held-out problem."""

    problem: str
    """The problem's id."""
    prompt: str
    """The last turn that the student answered."""
    response: str
    count: int
    """How many of the problem's samples are this response."""
    finish_reason: Literal["stop", "length"]
    solved: bool | None
    """None where it was not judged."""
    score: float | None
    says: str
    """What the sources wrote: what was wrong, or why it was not judged."""


def write_samples(path: Path, samples: Sequence[Sample]) -> None:
    """Writes them beside the evaluation `path`."""
    lines = (json.dumps(asdict(sample), ensure_ascii=False) + "\n" for sample in samples)
    write_whole(path.with_suffix(SUFFIX), "".join(lines).encode("utf-8", "replace"))


def read_samples(path: Path) -> list[Sample]:
    """Those of the evaluation `path`; empty where an older version wrote none."""
    beside = path.with_suffix(SUFFIX)
    if not beside.exists():
        return []
    return [Sample(**json.loads(text)) for _, text in read_lines(beside)]
