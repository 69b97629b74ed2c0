"""The data of a file: training and held-out rows, read, checked and filtered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from preceptor_trainer.data.formats.named import Part, make_format
from preceptor_trainer.data.lengths import keep_short
from preceptor_trainer.data.reading import FILES, read_rows
from preceptor_trainer.data.rows import RowFormat, Rows, make_rows
from preceptor_trainer.data.splits import apart, at_most, hold_out, hold_out_as_datasets
from preceptor_trainer.runfile.schema import DataSection
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


def read_data(data: DataSection, folder: Path, count: CountTokens, limit: int) -> Data:
    """The rows that a file names.

    Args:
        data: The file's section.
        folder: What relative paths are relative to.
        count: Tokens of a prompt.
        limit: Most tokens of a prompt.

    Raises:
        ValueError: rows are missing, wrong, or both trained on and held out.
    """
    train, held_out = _split(data, folder)
    if held_out is not None:
        train = apart(train, held_out, data.overlap)
        held_out = at_most(held_out, data.eval_rows)
    if data.long_prompts == "skip":
        train = keep_short(train, count, limit)
        held_out = None if held_out is None else keep_short(held_out, count, limit)
    return Data(train=train, held_out=held_out)


def _split(data: DataSection, folder: Path) -> tuple[Rows, Rows | None]:
    train = _read(data, folder, data.train, data.train_split, "train")
    if data.eval_share is not None:
        if data.eval_seed is not None:
            return hold_out_as_datasets(train, data.eval_share, data.eval_seed)
        return hold_out(train, data.eval_share)
    if data.eval is not None:
        return train, _read(
            data, folder, data.eval, data.eval_split or _split_of(data.eval), "held_out"
        )
    if data.eval_split is not None:
        return train, _read(data, folder, data.train, data.eval_split, "held_out")
    return train, None


def _split_of(source: str) -> str:
    """The split of held-out rows in a data set of their own."""
    return "train" if source.endswith(FILES) else "test"


def _read(data: DataSection, folder: Path, source: str, split: str, part: Part) -> Rows:
    form = RowFormat(
        prompt=data.prompt,
        system=data.system,
        reference=data.reference,
        duplicates=data.duplicates,
    )
    read = read_rows(source, folder, split=split, subset=data.subset)
    if data.format is not None:
        read = make_format(data.format, data.format_options)(read, part)
    return make_rows(source, read, form)
