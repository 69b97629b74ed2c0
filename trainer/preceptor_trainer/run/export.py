"""Takes a version of a run's weights out, as a folder in Hugging Face format.

    export("runs/quickstart-1@20", Path("trained"))

A version on disk is such a folder already, or an adapter of one, which is merged; what is added is
its name, `RUN@STEP`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

from preceptor_clients.kit.files import whole_folder
from preceptor_clients.sdk.offered_weights import WEIGHTS_FILE
from preceptor_trainer.learner.adapter_files import base_folder, holds_version, read_weights
from preceptor_trainer.run.evaluations import best_weights
from preceptor_trainer.run.retention import line_of
from preceptor_trainer.run.standing import Standing


class CannotExport(ValueError):
    """There is no such version; the message lists those that are there."""


def export(which: str, out: Path) -> Path:
    """Copies a version to `out`; one that is an adapter as the whole model.

    Args:
        which: `RUN@STEP`, `RUN@best`, or `RUN` for the last one; RUN is a run's folder.
        out: The new folder.

    Returns:
        The version's folder in the run.

    Raises:
        CannotExport: there is no such run or version.
        FileExistsError: `out` exists.
    """
    source = version_folder(*split_name(which))
    base = base_folder(source)
    if out.exists():
        raise FileExistsError(f"{out}: exists already; name a folder that is not there")
    if base is not None and not holds_version(base):
        raise CannotExport(
            f"{source} is an adapter of {base}, which is not there; copy that folder back, because "
            "the adapter alone is no model"
        )
    if not ((base or source) / "config.json").is_file():
        raise CannotExport(
            f"{source} holds weights alone: it was written by an older release; train at least one "
            "step more (`--extend 1`)"
        )
    with whole_folder(out) as partial:
        for path in (base or source).iterdir():
            if path.is_file() and (base is None or path.name != WEIGHTS_FILE):
                shutil.copyfile(path, partial / path.name)
        if base is not None:
            metadata = {"format": "pt"}
            save_file(read_weights(source), partial / WEIGHTS_FILE, metadata=metadata)
    return source


def loadable(which: str, room: Path) -> Path:
    """A folder that loads as a model: that of the version, or a merged one that is made in `room`.

    Raises:
        CannotExport: there is no such run or version.
    """
    source = version_folder(*split_name(which))
    if base_folder(source) is None:
        return source
    export(which, room / "merged")
    return room / "merged"


def split_name(which: str) -> tuple[Path, str]:
    """The folder and the step of `RUN@STEP`; without a step, `last`."""
    run, _, step = which.rpartition("@") if "@" in Path(which).name else (which, "", "last")
    return Path(run), step


def version_folder(run_dir: Path, step: str = "last") -> Path:
    """The folder of a version on the line of a run's last start.

    Args:
        run_dir: The run's folder.
        step: A number of steps, `best`, or `last`.

    Raises:
        CannotExport: there is no such run or version.
    """
    found = _on_line(run_dir)
    if not found:
        raise CannotExport(f"{run_dir}: holds no weights of a run")
    if step == "best":
        return _best(run_dir)
    if step == "last":
        return found[max(found)]
    if not step.isdecimal() or int(step) not in found:
        there = ", ".join(map(str, sorted(found)))
        raise CannotExport(
            f"{run_dir}@{step}: no such version; on disk are {there}. `keep` of the run decides "
            "how many checkpoints stay"
        )
    return found[int(step)]


def _on_line(run_dir: Path) -> dict[int, Path]:
    """Folders by step; where two lineages have the same step, the one that the run followed."""
    line = line_of(Standing.read(run_dir).lineages)
    found: dict[int, Path] = {}
    for lineage, last in line.items():
        for path in (run_dir / "weights").glob(f"*/{lineage}/[0-9]*"):
            step = int(path.name) if path.name.isdigit() else -1
            complete = step >= 0 and holds_version(path)
            if complete and (last is None or step <= last):
                found.setdefault(step, path)
    return found


def _best(run_dir: Path) -> Path:
    version = best_weights(run_dir)
    if version is None:
        raise CannotExport(f"{run_dir}@best: no version was evaluated")
    return run_dir / "weights" / version
