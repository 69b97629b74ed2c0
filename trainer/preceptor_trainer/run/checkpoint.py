"""Checkpoints: everything that a run needs to go on, in one folder per step, complete or absent.

    CHECKPOINTS/00000020/{trainer.pt, state.json, unused.pt}

`unused.pt` is there where experts owed answers: the groups of attempts that wait for them. The
weights themselves are a published version; the checkpoint names it and adds the optimiser's
state. Randomness is derived from (seed, step), so none is saved.
"""

from __future__ import annotations

import errno
import json
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch

from preceptor_clients.kit.files import whole_folder
from preceptor_trainer.kit.disk import disk_errors


@dataclass(frozen=True, kw_only=True)
class Position:
    """The point that a run has reached."""

    step: int
    """The next step to take."""
    lineage: str
    """The lineage on which the steps up to here were taken."""
    weights: str
    """The version that begins `step`."""


def save_checkpoint(
    folder: Path,
    position: Position,
    learner: dict[str, Any],
    unused: Sequence[dict[str, Any]] = (),
) -> Path:
    """Writes the checkpoint of `position`, and reads it back.

    An interrupted write leaves the earlier ones as they were, and so does one that cannot be read.

    Raises:
        OSError: the disk is full, or does not hold what was written.
    """
    final = folder / f"{position.step:08d}"
    with disk_errors(final), whole_folder(final) as partial:
        # Into an open file, because torch's own writer does not say what the disk said.
        with (partial / "trainer.pt").open("wb") as file:
            torch.save(learner, file)
        if unused:
            with (partial / "unused.pt").open("wb") as file:
                torch.save(list(unused), file)
        (partial / "state.json").write_text(json.dumps(asdict(position)))
        for path in partial.glob("*.pt"):
            _check_readable(path)
    return final


def _check_readable(path: Path) -> None:
    # torch's files are archives with a checksum of each tensor, which takes a fraction of loading.
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except zipfile.BadZipFile as error:
        broken = str(error)
    if broken is not None:
        raise OSError(errno.EIO, f"{path.name} does not hold what was written: {broken}")


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest step, if there is one."""
    return next(reversed(checkpoints(folder)), None)


def load_checkpoint(path: Path) -> tuple[Position, dict[str, Any]]:
    """Reads what `save_checkpoint` wrote."""
    state = json.loads((path / "state.json").read_text())
    # By name: a checkpoint of another version may hold more fields, and is usable all the same.
    position = Position(step=state["step"], lineage=state["lineage"], weights=state["weights"])
    # Not where it was: the run may go on without that GPU, and the learner moves what it takes.
    learner = torch.load(path / "trainer.pt", map_location="cpu", weights_only=True)
    return position, cast("dict[str, Any]", learner)


def load_unused(path: Path) -> list[dict[str, Any]]:
    """The groups that waited at a checkpoint; empty where none did."""
    file = path / "unused.pt"
    return torch.load(file, weights_only=True) if file.exists() else []


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints, the oldest first."""
    return sorted(p for p in folder.glob("[0-9]*") if p.name.isdigit())


def weights_of(checkpoint: Path) -> str:
    """The version that a checkpoint names."""
    return json.loads((checkpoint / "state.json").read_text())["weights"]


def remove_old_checkpoints(folder: Path, *, keep: int) -> None:
    """Removes all but the last `keep`."""
    for path in checkpoints(folder)[:-keep]:
        shutil.rmtree(path)
