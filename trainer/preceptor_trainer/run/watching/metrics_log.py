"""A run's numbers, one line a step in `RUN_DIR/metrics.jsonl`, and the same scalars on boards.

    with MetricsLog(run_dir, first_step=0) as log:
        log.write(step, lineage, {"loss": 3.2, "seconds/update": 0.8})
    read_metrics(run_dir)                   # [{"step": 1, "lineage": "a", "loss": 3.2, ...}, ...]

Steps count from 1 in the file, as in everything that people read; ids and the gateway's records
count from 0. The scalars of boards (`boards.py`) are grouped: `reward/`, `loss/`, `answers/`,
`seconds/`, and `held_out/` for pass@k.

The file only grows: a run that resumes at step s writes s again, and the lines that its earlier
lineage wrote from s on stay as a record. `read_metrics` gives the surviving lineage. A number that
is not finite is written as null, because JSON cannot represent it; it is never turned into 0.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from preceptor_clients.contract.json_lines import lines_of
from preceptor_clients.kit.files import write_whole
from preceptor_trainer.kit.disk import disk_errors
from preceptor_trainer.run.boards import Board, TensorBoard

METRICS_FILE = "metrics.jsonl"

MetricsLine: TypeAlias = dict[str, Any]
"""One step: `step` (int, from 1), `lineage` (str), and numbers or null by name."""

_GROUPS: Final = {
    "reward": ("reward", "solved_groups"),
    "answers": (
        *("rollouts", "targets", "with_", "dropped", "discarded", "missing_groups"),
        *("response_length", "cut_off", "corrections"),
        *("failed_judgements", "unjudged", "feedback_cost", "late/"),
    ),
}
"""The groups on boards, with the prefixes of the names in them; all other names go to `loss`."""


class MetricsLog:
    """Writes the metrics of one lineage of a run.

    Args:
        run_dir: the run's folder; made if it is not there.
        first_step: the step that this lineage begins with.
        boards: make the boards that show the same; TensorBoard alone where absent.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        first_step: int,
        boards: Sequence[Callable[[], Board]] | None = None,
    ) -> None:
        self._run_dir = run_dir
        self._make_boards = (
            (lambda: TensorBoard(run_dir, first_step),) if boards is None else boards
        )

    def __enter__(self) -> Self:
        self._run_dir.mkdir(parents=True, exist_ok=True)
        self._path = self._run_dir / METRICS_FILE
        _cut_torn_line(self._path)
        _count_from_one(self._path)
        self._boards = [make() for make in self._make_boards]
        self._file = self._path.open("a", encoding="utf-8")
        return self

    def write(self, step: int, lineage: str, metrics: Mapping[str, float | None]) -> None:
        """Adds one step; it is on disk when this returns.

        Args:
            step: index of the step, from 0.
            lineage: the lineage that took it.
            metrics: numbers by name; phases are `seconds/NAME`.
        """
        numbers = {name: _finite(value) for name, value in metrics.items()}
        line: MetricsLine = {"step": step + 1, "lineage": lineage, **numbers}
        with disk_errors(self._path):
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
        self._show(step + 1, {_tag(name): number for name, number in numbers.items()})

    def evaluation(self, num_steps: int, pass_at: Mapping[str, float]) -> None:
        """Shows held-out results after so many steps on the boards.

        Args:
            num_steps: steps taken until then.
            pass_at: results by name, such as `pass@1`.
        """
        self._show(num_steps, {f"held_out/{name}": value for name, value in pass_at.items()})

    def _show(self, step: int, scalars: Mapping[str, float | None]) -> None:
        numbers = {tag: number for tag, number in scalars.items() if number is not None}
        for board in self._boards:
            board.show(step, numbers)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Closing writes what an earlier write left, and may fail again.
        try:
            with disk_errors(self._path):
                self._file.close()
        finally:
            for board in self._boards:
                board.close()


def read_metrics(run_dir: Path) -> list[MetricsLine]:
    """The lines of the surviving lineage, in step order; empty if there are none.

    A line for step s supersedes every earlier line from s on: those belong to a lineage that ended.

    Raises:
        ValueError: a complete line is not a JSON object with a step.
    """
    path = run_dir / METRICS_FILE
    if not path.exists():
        return []
    surviving: list[MetricsLine] = []
    # Text after the last line end is incomplete: a write is under way, or was interrupted.
    complete = path.read_bytes().rpartition(b"\n")[0]
    for number, text in lines_of(complete):
        line = _parse(text, f"{path}:{number}")
        while surviving and surviving[-1]["step"] >= line["step"]:
            surviving.pop()
        surviving.append(line)
    return surviving


def _parse(text: str, where: str) -> MetricsLine:
    try:
        line = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON: {text[:80]!r}") from error
    if not isinstance(line, dict) or not isinstance(line.get("step"), int):  # pyright: ignore[reportUnknownMemberType]
        raise ValueError(f"{where}: not a line of metrics: {text[:80]!r}")
    return line  # pyright: ignore[reportUnknownVariableType]


def _tag(name: str) -> str:
    if name.startswith("seconds/"):
        return name
    found = (group for group, parts in _GROUPS.items() if name.startswith(parts))
    return f"{next(found, 'loss')}/{name}"


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _count_from_one(path: Path) -> None:
    """Renumbers the steps of an older version's file, which count from 0, to count from 1."""
    lines = (
        [_parse(text, str(path)) for _, text in lines_of(path.read_bytes())]
        if path.exists()
        else []
    )
    if not lines or lines[0]["step"] != 0:
        return
    moved = (json.dumps({**line, "step": line["step"] + 1}, allow_nan=False) for line in lines)
    write_whole(path, "".join(line + "\n" for line in moved))


def _cut_torn_line(path: Path) -> None:
    """Removes an incomplete last line; else the next line would be appended to it."""
    if not path.exists():
        return
    content = path.read_bytes()
    keep = content.rfind(b"\n") + 1
    if keep < len(content):
        os.truncate(path, keep)
