"""The versions of weights whose files stay.

What is needed:

    the first version              where the run began; later ones may be adapters of it
    those of the last checkpoints  to go on, and to take out
    the best one                   where an evaluation recorded it
    the newest ones                experts and samplers of other processes load them
    those of groups that wait      a late answer is of the version that sampled them
    with experts, all since the newest checkpoint whose average every averaging teacher has stored

The last line is for the self-teacher: EMA(v) needs every version from a stored average to v, so
that a teacher that starts again can compute it. Everything else goes: older versions between
checkpoints, and the versions of lineages that were left behind. Manifests of what was written stay
at the gateway. Provenance names each version, also those that were never files (`publishing.py`).
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from preceptor_trainer.run.standing import Lineage


class Version(NamedTuple):
    """A version of the run's policy."""

    lineage: str
    step: int

    @classmethod
    def of(cls, name: str) -> Version:
        """`{policy}/{lineage}/{step}`."""
        _, lineage, step = name.split("/")
        return cls(lineage, int(step))


def line_of(lineages: Sequence[Lineage]) -> dict[str, int | None]:
    """The lineages that led to the last one, each with its last step; None where it goes on.

    A lineage that began at step 0 published a version 0 of its own and descends from none.
    """
    by_name = {one.name: one for one in lineages}
    line: dict[str, int | None] = {}
    lineage, last = (lineages[-1] if lineages else None), None
    while lineage is not None and lineage.name not in line:
        line[lineage.name] = last
        last = lineage.from_step
        lineage = by_name.get(lineage.parent or "") if lineage.from_step else None
    return line


class Lost(NamedTuple):
    """Versions that are gone."""

    first: int
    """Step of the first one."""
    stored: int
    """Step of the newest checkpoint whose average every averaging teacher has stored; 0 where there
    is none, and all begins anew."""


@dataclass(frozen=True, kw_only=True)
class Retention:
    """The versions of one run under `folder`, which is `ROOT/{policy}`."""

    folder: Path
    keep: int
    """Checkpoints that stay."""
    averaged: bool
    """Whether an expert may average the versions between two checkpoints."""
    passing: Path | None = None
    """Another folder like `folder`, with versions that no checkpoint names."""

    @property
    def _folders(self) -> tuple[Path, ...]:
        return (self.folder,) if self.passing is None else (self.folder, self.passing)

    def prune(
        self,
        lineages: Sequence[Lineage],
        checkpoints: Sequence[Version],
        *,
        num_newest: int,
        also: Collection[Version] = (),
    ) -> None:
        """Removes every version that is not needed.

        Args:
            lineages: All starts of the run, the present one last.
            checkpoints: Versions with a checkpoint, oldest first.
            num_newest: Versions that a step in progress may still name.
            also: Versions to keep in any case.
        """
        places = dict(self._found())
        found = list(places)
        line, kept = line_of(lineages), checkpoints[-self.keep :]
        on_line = sorted((v for v in found if _is_on(line, v)), key=lambda v: v.step)
        wanted = self._wanted(on_line, kept, num_newest) | set(also)
        for version in found:
            if version not in wanted:
                shutil.rmtree(places[version])
        self._remove_averages(wanted)
        self._remove_left_behind({version.lineage for version in wanted})

    def lost(
        self, lineages: Sequence[Lineage], checkpoints: Sequence[Version], start: Version
    ) -> Lost | None:
        """Whether versions are gone that an average at `start` needs.

        Args:
            lineages: All starts of the run.
            checkpoints: Versions with a checkpoint, oldest first.
            start: The newest of them.
        """
        if not self.averaged:
            return None
        line = line_of(lineages)
        there = {version for version, _ in self._found() if _is_on(line, version)}
        first = [version for version in there if version.step == 0]
        stored = self._safe_step(checkpoints[-self.keep :], first)
        steps = {version.step for version in there}
        gone = [step for step in range(stored + 1, start.step) if step not in steps]
        return Lost(first=gone[0], stored=max(stored, 0)) if gone else None

    def _wanted(
        self, on_line: Sequence[Version], kept: Sequence[Version], num_newest: int
    ) -> set[Version]:
        first = [version for version in on_line if version.step == 0]
        wanted = {*first, *kept, *on_line[-num_newest:]}
        if not self.averaged:
            return wanted
        safe = self._safe_step(kept, first)
        return wanted | {version for version in on_line if version.step > safe}

    def _safe_step(self, kept: Sequence[Version], first: Sequence[Version]) -> int:
        """Step of the newest checkpoint from which every teacher can go on; -1 for none."""
        stores = [store for store in self._stores() if self._is_used(store, kept, first)]
        for version in reversed(kept):
            if all(_has(self.folder, version, store) for store in stores):
                return version.step
        return -1

    def _is_used(self, store: str, kept: Sequence[Version], first: Sequence[Version]) -> bool:
        """Whether a teacher still stores averages there, as far as the last checkpoints tell."""
        recent = kept if len(kept) >= self.keep else [*first, *kept]
        return any(_has(self.folder, version, store) for version in recent)

    def _stores(self) -> set[str]:
        return {path.name for path in self.folder.glob("*/ema-*") if path.is_dir()}

    def _remove_averages(self, wanted: Collection[Version]) -> None:
        for note in self.folder.glob("*/ema-*/[0-9]*.json"):
            version = Version(note.parent.parent.name, int(note.stem))
            if version not in wanted:
                note.unlink(missing_ok=True)  # first: it marks the tensors as complete
                note.with_suffix(".safetensors").unlink(missing_ok=True)

    def _remove_left_behind(self, lineages: Collection[str]) -> None:
        """Removes lineages without a version, and what an interrupted write left."""
        for folder in self._folders:
            for path in folder.iterdir() if folder.exists() else ():
                if path.is_dir() and path.name not in lineages:
                    shutil.rmtree(path)
            for path in folder.glob("*/.*.partial"):
                shutil.rmtree(path)

    def _found(self) -> Iterator[tuple[Version, Path]]:
        for folder in self._folders:
            for path in folder.glob("*/[0-9]*"):
                if path.name.isdigit() and path.is_dir():
                    yield Version(path.parent.name, int(path.name)), path


def _has(folder: Path, version: Version, store: str) -> bool:
    return (folder / version.lineage / store / f"{version.step}.json").is_file()


def _is_on(line: dict[str, int | None], version: Version) -> bool:
    if version.lineage not in line:
        return False
    last = line[version.lineage]
    return last is None or version.step <= last
