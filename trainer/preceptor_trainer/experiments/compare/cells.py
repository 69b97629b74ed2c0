"""Finished cells: one JSON file each, with all data for the report.

FOLDER/cells/{stage}-{method}-{lr}-{seed}.json

A cell also records its configuration, student and budget. A cell with other ones is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from preceptor_clients.kit.files import write_whole
from preceptor_trainer.evaluation.held_out import Evaluation
from preceptor_trainer.experiments.compare.method import Service
from preceptor_trainer.experiments.compare.plan import Cell, Comparison
from preceptor_trainer.experiments.compare.statistics import pass_at_k_of_counts
from preceptor_trainer.run.config import describe

METRICS: Final = (
    "reward", "response_length", "entropy", "with_teacher", "with_demonstration", "with_feedback",
    "loss", "kl", "grad_norm", "rollouts", "targets", "dropped_answers",
    "discarded_rollouts", "discarded_tokens", "missing_groups",
)  # fmt: skip
"""Metrics stored for every step."""


class MadeOtherwise(ValueError):
    """Existing results belong to another configuration, student or budget."""


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """An evaluation, down to counts: all that pass@k needs."""

    problem_ids: tuple[str, ...]
    successes_P: tuple[int, ...]
    num_samples: int
    mean_length: float
    graded_P: tuple[int, ...] = ()
    """Samples with a grade, by problem; empty where every sample has one."""

    @classmethod
    def of(cls, evaluation: Evaluation) -> Outcomes:
        """The counts of an evaluation."""
        return cls(
            problem_ids=evaluation.problem_ids,
            successes_P=tuple(int(count) for count in evaluation.successes_PN.sum(1)),
            num_samples=evaluation.successes_PN.shape[1],
            mean_length=float(evaluation.lengths_PN.mean()),
            graded_P=tuple(int(count) for count in evaluation.graded_PN.sum(1))
            if evaluation.num_ungraded
            else (),
        )

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Outcomes:
        """Reads the dictionary that `asdict` made."""
        return cls(
            problem_ids=tuple(value["problem_ids"]),
            successes_P=tuple(value["successes_P"]),
            num_samples=value["num_samples"],
            mean_length=value["mean_length"],
            graded_P=tuple(value.get("graded_P", ())),
        )

    @property
    def num_ungraded(self) -> int:
        """Number of samples without a grade."""
        return sum(self.num_samples - graded for graded in self.graded_P)

    @property
    def solved_share(self) -> float:
        """Share of successes among the samples with a grade."""
        if not self.graded_P:
            return float(np.mean(self.successes_P)) / self.num_samples
        return sum(self.successes_P) / sum(self.graded_P)

    def pass_at(self, k: int) -> NDArray[np.float64]:
        """`[P]` pass@k; NaN where fewer than k samples of a problem have a grade."""
        missing_P = [self.num_samples - graded for graded in self.graded_P]
        return pass_at_k_of_counts(self.successes_P, self.num_samples, k, missing_P=missing_P)


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """One finished cell."""

    cell: Cell
    made_with: dict[str, Any]
    """Configuration, student and budget: `identity`."""
    before: Outcomes
    after: Outcomes
    probes: list[dict[str, float]]
    """In step order: `step`, `pass@1`, `length`, `seconds`, `tokens`."""
    metrics: list[dict[str, Any]]
    """`METRICS` of every step."""
    observed: dict[str, int]
    """Counts of what rollouts and targets were made of."""
    steps: int
    seconds: float
    """Of training, as budgets count them."""
    tokens: float
    versions: dict[str, str]
    wall_seconds: float | None = None
    """Of the whole run, loading and evaluations included; None where it was interrupted, and for
    cells of versions that did not measure it."""


class CellStore:
    """The folder of finished cells."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "cells"

    def save(self, result: CellResult) -> None:
        """Writes a cell atomically."""
        text = json.dumps(asdict(result), allow_nan=False)
        write_whole(self._path(result.cell), text + "\n")

    def load(self, cell: Cell, made_with: Mapping[str, Any]) -> CellResult | None:
        """A finished cell, or None.

        Raises:
            MadeOtherwise: its configuration differs from the planned one.
        """
        path = self._path(cell)
        if not path.exists():
            return None
        value = json.loads(path.read_text())
        other = difference(value["made_with"], made_with)
        if other:
            raise MadeOtherwise(
                f"{path}: was made with {other}; remove it, or compare in another folder"
            )
        fields: dict[str, Any] = {
            **value,
            "cell": Cell(**value["cell"]),
            "before": Outcomes.read(value["before"]),
            "after": Outcomes.read(value["after"]),
        }
        return CellResult(**fields)

    def _path(self, cell: Cell) -> Path:
        return self._folder / f"{cell.name}.json"


def identity(comparison: Comparison, cell: Cell) -> dict[str, Any]:
    """Everything that a cell's numbers depend on, as JSON values.

    Models are identified by their bytes and problems by their ids, since folders may move and the
    problems of a name may change.
    """
    method = comparison.method(cell.method)
    config = method.build(comparison.trial(cell))
    described = describe(config)
    described["model"] = _sha256(config.model / "model.safetensors")
    assert config.evaluation is not None, "the trial sets it"
    ids = "\n".join(problem.id for problem in config.evaluation.problems)
    described["evaluation"]["problems"] = hashlib.sha256(ids.encode()).hexdigest()[:16]
    services = {name: describe_service(service) for name, service in method.services.items()}
    made_with = {"config": described, "services": services, "budget": asdict(comparison.budget)}
    return json.loads(json.dumps(made_with))  # as it reads from a file: lists, not tuples


def describe_service(service: Service) -> dict[str, Any]:
    """A service as JSON values; a model of its own by its bytes."""
    options = dict(service.options)
    if "model" in options:
        weights = Path(options["model"], "model.safetensors")
        if weights.is_file():
            options["model"] = _sha256(weights)
    return {"use": service.use, "options": options}


def difference(old: Any, new: Any, where: str = "") -> str | None:
    """The first place where two JSON values differ, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]
            found = difference(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))  # pyright: ignore[reportUnknownArgumentType,reportUnknownMemberType]
            if found:
                return found
        return None
    return None if old == new else f"{where} = {old!r}, not {new!r}"


def _sha256(path: Path) -> str:
    stat = path.stat()
    return _sha256_of_version(path, stat.st_size, stat.st_mtime_ns)


@cache
def _sha256_of_version(path: Path, size: int, mtime_ns: int) -> str:
    """Reads a file once for all cells; a change is detected by size and time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
