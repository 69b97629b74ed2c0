"""Boards that show a run's numbers beside its own files: TensorBoard, W&B, trackio.

    RunConfig(..., log=("tensorboard", "wandb"))

W&B and trackio share one interface. Each is an extra: `pip install 'preceptor[wandb]'`. A run that
goes on, goes on in the same place of the board.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias

# tensorboard carries no types
from tensorboard.compat.proto import (  # pyright: ignore[reportMissingTypeStubs]
    event_pb2,
    summary_pb2,
)
from tensorboard.summary.writer.record_writer import (  # pyright: ignore[reportMissingTypeStubs]
    RecordWriter,
)

from preceptor_trainer.kit.disk import disk_errors

_events: Any = event_pb2
_summaries: Any = summary_pb2

BoardName: TypeAlias = Literal["tensorboard", "wandb", "trackio"]
TENSORBOARD_FOLDER: Final = "tensorboard"
PROJECT: Final = "preceptor"


class Board(Protocol):
    """Shows numbers by step."""

    def show(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds the numbers of one step; a later call for the same step adds to it."""
        ...

    def close(self) -> None:
        """Ends the run on the board."""
        ...


class TensorBoard:
    """Event files in `RUN/tensorboard`.

    Args:
        run_dir: The run's folder.
        first_step: TensorBoard drops what earlier lineages wrote from the step after it on.
    """

    def __init__(self, run_dir: Path, first_step: int) -> None:
        self._path = _board_path(run_dir / TENSORBOARD_FOLDER)
        # Not EventFileWriter, whose thread prints a traceback when the disk is full.
        self._writer: Any = RecordWriter(self._path.open("ab"))
        self._add(0, file_version="brain.Event:2")
        self._add(first_step + 1, session_log=_events.SessionLog(status=_events.SessionLog.START))

    def show(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds one event; it is on disk when this returns."""
        values = [
            _summaries.Summary.Value(tag=tag, simple_value=number)
            for tag, number in numbers.items()
        ]
        self._add(step, summary=_summaries.Summary(value=values))

    def close(self) -> None:
        """Closes the file, which writes what an earlier write left, and may fail again."""
        with disk_errors(self._path):
            self._writer.close()

    def _add(self, step: int, **content: Any) -> None:
        event = _events.Event(wall_time=time.time(), step=step, **content)
        with disk_errors(self._path):
            self._writer.write(event.SerializeToString())
            self._writer.flush()


def _board_path(folder: Path) -> Path:
    """A new file with the name that TensorBoard looks for; a later start's comes after it."""
    folder.mkdir(parents=True, exist_ok=True)
    starts = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
    number = next(n for n in itertools.count() if not (folder / f"{starts}.{n}").exists())
    return folder / f"{starts}.{number}"


class Tracker:
    """W&B, or trackio, which has the same calls.

    Args:
        library: `wandb` or `trackio`.
        run_dir: The run's folder; its path decides which run of the board goes on.
        name: The run's name.
        config: Its settings, which the board shows.
    """

    def __init__(
        self, library: Literal["wandb", "trackio"], run_dir: Path, name: str, config: Any
    ) -> None:
        self._library = load_library(library)
        place = hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:8]
        own: dict[str, Any] = {"name": f"{name}-{place}"}
        if library == "wandb":
            own = {"name": name, "id": f"{name}-{place}", "dir": str(run_dir)}
        self._library.init(project=PROJECT, config=config, resume="allow", **own)

    def show(self, step: int, numbers: Mapping[str, float]) -> None:
        """Logs the numbers of one step."""
        self._library.log(dict(numbers), step=step)

    def close(self) -> None:
        """Finishes the run."""
        self._library.finish()


def load_library(name: str) -> Any:
    """The library of a board.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ValueError(
            f"log: {name} is not installed; pip install 'preceptor[{name}]'"
        ) from error
