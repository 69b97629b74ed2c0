"""Takes a version of a run's weights out, as a folder in Hugging Face format.

    export("runs/quickstart-1@20", Path("trained"))

Each version on disk is such a folder already; what is added is its name, `RUN@STEP`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from preceptor_clients.kit.files import whole_folder
from preceptor_trainer.run.evaluations import best_weights
from preceptor_trainer.run.retention import line_of
from preceptor_trainer.run.standing import Standing

_WEIGHTS: Final = "model.safetensors"


class CannotExport(ValueError):
    """There is no such version; the message lists those that are there."""


def export(which: str, out: Path) -> Path:
    """Copies a version to `out`.

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
    if out.exists():
        raise FileExistsError(f"{out}: exists already; name a folder that is not there")
    if not (source / "config.json").is_file():
        raise CannotExport(
            f"{source} holds weights alone: it was written by an older release; train at least one "
            "step more (`--extend 1`)"
        )
    with whole_folder(out) as partial:
        for path in source.iterdir():
            shutil.copyfile(path, partial / path.name)
    return source


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
            complete = step >= 0 and (path / _WEIGHTS).is_file()
            if complete and (last is None or step <= last):
                found.setdefault(step, path)
    return found


def _best(run_dir: Path) -> Path:
    version = best_weights(run_dir)
    if version is None:
        raise CannotExport(f"{run_dir}@best: no version was evaluated")
    return run_dir / "weights" / version
