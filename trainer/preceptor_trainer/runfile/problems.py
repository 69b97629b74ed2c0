"""The data of a file: training and held-out rows, read, checked and filtered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from preceptor_trainer.data.formats.named import Part, make_format
from preceptor_trainer.data.lengths import keep_short
from preceptor_trainer.data.reading import FILES, ReadRow, read_rows
from preceptor_trainer.data.rows import RowFormat, Rows, make_rows
from preceptor_trainer.data.splits import apart, at_most, hold_out, hold_out_as_datasets
from preceptor_trainer.environments.openenv.tasks import read_tasks
from preceptor_trainer.kit.waiting import wait_for
from preceptor_trainer.runfile.schema import (
    ENVIRONMENT_USE,
    DataSection,
    EnvironmentSection,
    RunFile,
)
from preceptor_trainer.runfile.students import CountTokens


@dataclass(frozen=True, kw_only=True)
class Data:
    """The rows of a run."""

    train: Rows
    held_out: Rows | None

    @property
    def dropped(self) -> tuple[str, ...]:
        """What was left out, and why, in sentences."""
        return (*self.train.dropped, *(() if self.held_out is None else self.held_out.dropped))


def read_data(run_file: RunFile, folder: Path, count: CountTokens, limit: int) -> Data:
    """The rows that a file names.

    Args:
        run_file: The whole file.
        folder: What relative paths are relative to.
        count: Tokens of a prompt.
        limit: Most tokens of a prompt.

    Raises:
        ValueError: rows are missing, wrong, or both trained on and held out.
    """
    data = run_file.data
    train, held_out = _split(data, _Reader(data, run_file.environment, folder))
    if held_out is not None:
        train = apart(train, held_out, data.overlap)
        held_out = at_most(held_out, data.eval_rows)
    if data.long_prompts == "skip":
        train = keep_short(train, count, limit)
        held_out = None if held_out is None else keep_short(held_out, count, limit)
    return Data(train=train, held_out=held_out)


def _split(data: DataSection, reader: _Reader) -> tuple[Rows, Rows | None]:
    train = reader.read(data.train, data.train_split, "train")
    if data.eval_share is not None:
        if data.eval_seed is not None:
            return hold_out_as_datasets(train, data.eval_share, data.eval_seed)
        return hold_out(train, data.eval_share)
    if data.eval is not None:
        return train, reader.read(data.eval, data.eval_split or _split_of(data.eval), "held_out")
    if data.eval_split is not None:
        return train, reader.read(data.train, data.eval_split, "held_out")
    return train, None


def _split_of(source: str) -> str:
    """The split of held-out rows in a data set of their own."""
    return "train" if source.endswith(FILES) else "test"


@dataclass(frozen=True)
class _Reader:
    data: DataSection
    environment: EnvironmentSection | None
    folder: Path

    def read(self, source: str, split: str, part: Part) -> Rows:
        data = self.data
        form = RowFormat(
            prompt=data.prompt,
            system=data.system,
            reference=data.reference,
            duplicates=data.duplicates,
        )
        if source == ENVIRONMENT_USE:
            assert self.environment is not None, "the schema has checked it"
            read, left_out = _tasks(self.environment, split)
            source = f"{self.environment.url}[{split}]"
        else:
            read, left_out = read_rows(source, self.folder, split=split, subset=data.subset), ()
        if data.format is not None:
            read = make_format(data.format, data.format_options)(read, part)
        rows = make_rows(source, read, form)
        return replace(rows, dropped=(*left_out, *rows.dropped))


def _tasks(section: EnvironmentSection, split: str) -> tuple[list[ReadRow], tuple[str, ...]]:
    """The tasks of a split as rows, and what was left out."""
    tasks = read_tasks(section.url, split, most=section.max_tasks, timeout_s=section.timeout_s)
    try:
        found = wait_for(tasks)
    except ValueError as error:
        raise ValueError(f"environment.url: {error}") from error
    rows = [ReadRow(f"{section.url}[{split}]:{task['index']}", task) for task in found.first]
    num_left_out = found.num_tasks - len(rows)
    why = f"{section.url}[{split}]: tasks beyond environment.max_tasks: {num_left_out}"
    return rows, (why,) if num_left_out else ()
