"""State of a run's folder: settings it was begun with, steps to take, whether it is finished.

    standing = Standing.read(run_dir)
    check_settings(standing, describe_run(config), run_dir)

RUN/config.json                     the settings that the gateway has on record
RUN/checkpoints/lineages.jsonl      each start of a trainer, written when the gateway accepts it
RUN/checkpoints/lives.jsonl         the same by an older version, written before the gateway did
RUN/summary.json                    the result of a finished run

A folder of an older version may hold starts and settings that the gateway refused. Its settings are
ignored then, and the gateway's record is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from preceptor_clients.contract.json_lines import lines_of
from preceptor_clients.kit.files import write_whole
from preceptor_trainer.evaluation.samples import SUFFIX
from preceptor_trainer.kit.flatten import flatten
from preceptor_trainer.run.config import RunConfig

CONFIG_FILE: Final = "config.json"
SUMMARY_FILE: Final = "summary.json"
BEST_FILE: Final = "best.json"
LINEAGES: Final = Path("checkpoints") / "lineages.jsonl"
OLDER_LINEAGES: Final = Path("checkpoints") / "lives.jsonl"
AFTER: Final = Path("evaluations") / "after.json"
_GROWS: Final = frozenset({"steps", "optimiser.decay_until"})
"""Settings in which an extended run differs from how it was begun."""


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """One start of the trainer on a run's folder."""

    name: str
    parent: str | None
    from_step: int
    steps: int | None = None
    """Steps of the whole run as of this start; None in what an older version wrote."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A setting that is not what the run was begun with."""

    name: str
    begun: str
    now: str

    def __str__(self) -> str:
        return f"{self.name}: begun with {self.begun}, now {self.now}"


class OtherSettings(Exception):
    """The run was begun with other settings."""

    def __init__(
        self, run_dir: Path, differences: list[Difference], begun: Mapping[str, Any]
    ) -> None:
        listed = "".join(f"\n  {difference}" for difference in differences)
        super().__init__(f"{run_dir} was begun with other settings:{listed}")
        self.begun = begun


class CannotExtend(Exception):
    """The run cannot be given more steps now; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The state of a run's folder when a trainer starts."""

    lineages: tuple[Lineage, ...]
    begun: dict[str, Any] | None
    """Settings as the gateway accepted them; None where the folder has no reliable record."""
    finished_steps: int | None
    """Steps of the result in the folder."""
    has_checkpoint: bool

    @classmethod
    def read(cls, run_dir: Path) -> Standing:
        """Reads the folder, which may hold nothing yet."""
        lineages = (*_lineages(run_dir / OLDER_LINEAGES), *_lineages(run_dir / LINEAGES))
        believed = bool(lineages) and lineages[-1].steps is not None
        config, summary = run_dir / CONFIG_FILE, run_dir / SUMMARY_FILE
        return cls(
            lineages=lineages,
            begun=json.loads(config.read_text()) if believed and config.exists() else None,
            finished_steps=json.loads(summary.read_text())["steps"] if summary.exists() else None,
            has_checkpoint=any((run_dir / "checkpoints").glob("[0-9]*")),
        )

    @property
    def steps(self) -> int | None:
        """Steps that the run is to take, extensions included."""
        return self.lineages[-1].steps if self.lineages else None

    @property
    def finished(self) -> bool:
        """Whether the result is of all these steps."""
        return self.finished_steps is not None and self.finished_steps >= (self.steps or 0)

    @property
    def extended_by(self) -> int:
        """Steps of an extension that is under way."""
        if self.finished or (self.finished_steps is None and not self._earlier()):
            return 0
        return (self.steps or 0) - (self.finished_steps or max(self._earlier()))

    def _earlier(self) -> list[int]:
        """Totals that the run had before its newest one."""
        return [one.steps for one in self.lineages if one.steps and one.steps < (self.steps or 0)]


def _lineages(path: Path) -> list[Lineage]:
    rows: list[dict[str, Any]] = [json.loads(text) for _, text in lines_of(_complete(path))]
    return [
        Lineage(
            name=row.get("name") or row["lineage"],
            parent=row["parent"],
            from_step=row["from_step"],
            steps=row.get("steps"),
        )
        for row in rows
    ]


def _complete(path: Path) -> bytes:
    """The file's complete lines; text after the last line end is an interrupted write."""
    whole, end, _ = path.read_bytes().rpartition(b"\n") if path.exists() else (b"", b"", b"")
    return whole + end


def remember(run_dir: Path, lineage: Lineage) -> None:
    """Records a start that the gateway has accepted."""
    path = run_dir / LINEAGES
    # Whole, because a line after an incomplete one would be lost with it.
    write_whole(path, _complete(path) + json.dumps(asdict(lineage)).encode() + b"\n")


def differences(begun: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Settings that changed; a newer version's setting that `begun` does not have is left out."""
    was, is_now = flatten(begun), flatten(now)
    return [
        Difference(name=name, begun=value, now=is_now.get(name, "not set"))
        for name, value in was.items()
        if is_now.get(name) != value
    ]


def check_settings(
    begun: Mapping[str, Any], now: Mapping[str, Any], run_dir: Path, *, may_grow: bool
) -> None:
    """Checks that a run continues with its first settings, or with more steps if it `may_grow`.

    Raises:
        OtherSettings: settings differ; the message names every difference.
    """
    found = differences(begun, now)
    if may_grow and now["steps"] > begun.get("steps", now["steps"]):
        found = [difference for difference in found if difference.name not in _GROWS]
    if found:
        raise OtherSettings(run_dir, found, begun)


def steps_to_take(standing: Standing, config: RunConfig, extend: int | None) -> int:
    """Steps of the whole run: as begun, as extended before, or `extend` more.

    Raises:
        CannotExtend: the run is not finished, or its checkpoints are gone.
    """
    total = standing.steps or config.steps
    if extend is None or extend == standing.extended_by:
        return total
    if standing.extended_by:
        raise CannotExtend(f"its extension by {standing.extended_by} steps is not finished yet")
    if not standing.finished:
        raise CannotExtend("it is not finished yet; only a finished run is given more steps")
    if not standing.has_checkpoint:
        raise CannotExtend(
            "its checkpoints are gone, so training cannot continue from its last step"
        )
    return total + extend


def extended(config: RunConfig, steps: int) -> RunConfig:
    """`config` with more steps.

    A learning rate that reaches zero earlier falls to zero at the new end instead: from the
    extension's first step on, it is the rate of a run that was begun with all these steps.
    """
    optimiser = config.optimiser
    if optimiser.decay_until is not None and optimiser.decay_until < steps:
        optimiser = replace(optimiser, decay_until=steps)
    return replace(config, steps=steps, optimiser=optimiser)


def set_result_aside(run_dir: Path, steps: int) -> None:
    """Renames the earlier result by its steps, because an extended run is evaluated again."""
    summary, after = run_dir / SUMMARY_FILE, run_dir / AFTER
    earlier = json.loads(summary.read_text())["steps"] if summary.exists() else steps
    if earlier >= steps:
        return
    # The summary last: while it is there, the next start repeats what was interrupted here.
    for path in (after.with_suffix(SUFFIX), after, summary):
        if path.exists():
            stem, dot, suffix = path.name.partition(".")
            path.replace(path.with_name(f"{stem}-{earlier}{dot}{suffix}"))
