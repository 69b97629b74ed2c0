"""What a run will keep in its folders at most, computed before it begins.

A step's weights are a version; a checkpoint is a version and the optimiser's state. `retention.py`
decides which stay: with teachers all versions since the last checkpoints, because an average may
need them. Where no other process reads versions, those between checkpoints have no files.
With a scratch folder those are there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from preceptor_trainer.kit.machine import folder_bytes, free_disk_bytes, is_in_memory
from preceptor_trainer.learner.policy import passing_folder
from preceptor_trainer.model.shape import Shape
from preceptor_trainer.run.config import RunConfig, others_read_versions, rounds_versions
from preceptor_trainer.run.needs.memory_plan import num_trained


@dataclass(frozen=True, kw_only=True)
class PassingPlan:
    """What a scratch folder will hold."""

    folder: Path
    num_versions: int
    """Most versions at a time, with one that is being written."""
    version_bytes: int
    """One of them."""
    there_bytes: int
    """What a start that was interrupted left of them."""
    free_bytes: int
    """Room where the folder is."""
    in_memory: bool
    """Whether the folder is main memory, and no disk."""

    @property
    def most_bytes(self) -> int:
        """What all of it takes."""
        return self.num_versions * self.version_bytes

    @property
    def room_bytes(self) -> int:
        """What there is for it."""
        return self.free_bytes + self.there_bytes


@dataclass(frozen=True, kw_only=True)
class DiskPlan:
    """What the run's folder will hold."""

    version_bytes: int
    """All weights of the model."""
    state_bytes: int
    """The optimiser's state of one checkpoint."""
    num_versions: int
    """Most whole versions at a time."""
    num_states: int
    """Most checkpoints at a time: one is written before the oldest goes."""
    there_bytes: int
    """What the folder holds of them already."""
    free_bytes: int
    """Room where the folder is."""
    adapter_bytes: int = 0
    """A version that is an adapter alone."""
    num_adapters: int = 0
    """Most of these at a time."""
    average_bytes: int = 0
    """An average that a teacher stores."""
    num_averages: int = 0
    """Most of these at a time."""
    passing: PassingPlan | None = None
    """What a scratch folder will hold; None where there is none, or nothing passes through it."""

    @property
    def most_bytes(self) -> int:
        """What all of it takes."""
        versions = self.num_versions * self.version_bytes + self.num_adapters * self.adapter_bytes
        averages = self.num_averages * self.average_bytes
        return versions + averages + self.num_states * self.state_bytes

    @property
    def missing_bytes(self) -> int:
        """Room that is missing; 0 where there is enough."""
        return max(0, self.most_bytes - self.there_bytes - self.free_bytes)


def disk_plan(
    config: RunConfig, shape: Shape, run_dir: Path, *, adapters: bool = False
) -> DiskPlan:
    """The plan of a run in `run_dir`.

    Args:
        config: The run.
        shape: Of its model.
        run_dir: Its folder, which need not exist.
        adapters: Whether versions after the first are an adapter alone.
    """
    whole = 4 * shape.num_parameters
    rounded = rounds_versions(config)
    trained = num_trained(config, shape)
    moments = (4 if config.optimiser.moments == "bfloat16" else 8) * trained
    adapter = 0 if config.lora is None else 4 * trained
    evaluated = None if config.evaluation is None else config.evaluation.every
    interval = min(config.checkpoint_every, evaluated or config.checkpoint_every)
    # Those that are there while one more is written.
    kept = min(config.keep, math.ceil(config.steps / interval) - 1)
    # The first version, the new one, and the best one.
    num_versions = kept + 2 + (evaluated is not None)
    between = 0
    if others_read_versions(config):
        between += 2  # that a step in progress may name
    if config.experts:
        between += 2 * interval
    passes = bool(config.scratch and between)
    num_versions = min(config.steps + 1, num_versions + (0 if passes else between))
    # The first version has both.
    num_whole, num_adapters = (1, num_versions) if adapters else (num_versions, 0)
    there = [run_dir / "weights", run_dir / "checkpoints"]
    version = whole // 2 if rounded else whole
    passing = None
    if passes and config.scratch is not None:
        passing = PassingPlan(
            folder=config.scratch,
            num_versions=min(config.steps, between + 1),
            version_bytes=adapter if adapters else version,
            there_bytes=_held(passing_folder(config.scratch, run_dir / "weights")),
            free_bytes=free_disk_bytes(config.scratch),
            in_memory=is_in_memory(config.scratch),
        )
    return DiskPlan(
        version_bytes=version,
        # Beside a rounded version a checkpoint has the weights themselves.
        state_bytes=moments + adapter + (whole if rounded else 0),
        num_versions=num_whole,
        num_states=kept + 1,
        there_bytes=sum(_held(folder) for folder in there),
        free_bytes=free_disk_bytes(run_dir),
        adapter_bytes=adapter,
        num_adapters=num_adapters,
        # Beside a checkpoint's version.
        average_bytes=whole,
        num_averages=kept + 1 if config.experts else 0,
        passing=passing,
    )


def _held(folder: Path) -> int:
    return folder_bytes(folder) if folder.exists() else 0
