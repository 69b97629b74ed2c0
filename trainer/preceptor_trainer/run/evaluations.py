"""The evaluations of a run: their files, which version is the best, and what an ended lineage left.

RUN/evaluations/before.json, step-20.json, after.json   raw outcomes
RUN/evaluations/before.samples.jsonl, ...               responses with verdicts
RUN/best.json                                           step, version and pass@k of the best one

A run is evaluated before its first step, after its last one, and every `evaluation.every` steps
between. The best version is the one with the highest mean pass@k at the smallest k; of equal ones
the earliest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from preceptor_clients.kit.files import write_whole
from preceptor_trainer.evaluation.held_out import Evaluation
from preceptor_trainer.evaluation.samples import FOLDER, SUFFIX, write_samples
from preceptor_trainer.run.standing import BEST_FILE

BEFORE: Final = "before"
AFTER: Final = "after"
ALONE: Final = "alone"
"""Of a version, without a training around it."""
_STEP: Final = "step-"


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One evaluation of a run."""

    label: str
    """`before`, `after` or `step-N`."""
    step: int
    """Steps taken until then."""
    weights: str
    pass_at: dict[str, float]


class Evaluations:
    """The evaluations in the folder of one run.

    Args:
        run_dir: The run's folder.
        steps: Steps of the whole run.
        ks: The k of pass@k.
    """

    def __init__(self, run_dir: Path, steps: int, ks: Sequence[int]) -> None:
        self._run_dir = run_dir
        self._steps = steps
        self._ks = ks

    def load(self, label: str) -> Evaluation | None:
        """A finished evaluation."""
        path = self._path(label)
        return Evaluation.load(path) if path.exists() else None

    def save(self, label: str, result: Evaluation) -> None:
        """Writes an evaluation, and which one is the best by now."""
        path = self._path(label)
        # The outcomes last: where they are, the evaluation is finished.
        write_samples(path, result.samples)
        result.save(path)
        self._record_best()

    def forget_from(self, step: int) -> None:
        """Removes those of a lineage that ended, which a lineage from `step` on takes again."""
        for path in self._folder.glob(f"{_STEP}*.json"):
            if _step_of(path.stem, self._steps) > step:
                path.unlink()
                path.with_suffix(SUFFIX).unlink(missing_ok=True)
        self._record_best()

    def all(self) -> list[Evaluated]:
        """Every evaluation, in the order of the steps."""
        found = [self._evaluated(path) for path in self._folder.glob("*.json")]
        return sorted((one for one in found if one is not None), key=lambda one: one.step)

    def between(self) -> list[Evaluation]:
        """Those between the first and the last."""
        return [Evaluation.load(path) for path in sorted(self._folder.glob(f"{_STEP}*.json"))]

    def best(self) -> Evaluated | None:
        """The best one; None before the first."""
        name = f"pass@{min(self._ks)}"
        known = [one for one in self.all() if name in one.pass_at]
        return max(known, key=lambda one: (one.pass_at[name], -one.step), default=None)

    def _record_best(self) -> None:
        path, best = self._run_dir / BEST_FILE, self.best()
        if best is None:
            path.unlink(missing_ok=True)
        else:
            write_whole(path, json.dumps(asdict(best), indent=1) + "\n")

    @property
    def _folder(self) -> Path:
        return self._run_dir / FOLDER

    def _path(self, label: str) -> Path:
        return self._folder / f"{label}.json"

    def _evaluated(self, path: Path) -> Evaluated | None:
        label = path.stem
        step = _step_of(label, self._steps)
        if step < 0:
            return None
        result = Evaluation.load(path)
        return Evaluated(
            label=label,
            step=step,
            weights=result.weights,
            pass_at=result.mean_pass_at(self._ks),
        )


def _step_of(label: str, steps: int) -> int:
    """Steps until an evaluation; -1 for the result of a run that was extended since."""
    if label in (BEFORE, AFTER):
        return 0 if label == BEFORE else steps
    number = label.removeprefix(_STEP)
    return int(number) if label.startswith(_STEP) and number.isdecimal() else -1


def best_weights(run_dir: Path) -> str | None:
    """The version that is recorded as the best by now."""
    path = run_dir / BEST_FILE
    return json.loads(path.read_text())["weights"] if path.exists() else None
