"""Reads rows: JSON, JSON lines, a parquet file, a folder of a data set, or a data set of the hub.

    read_rows("train.jsonl", folder)
    read_rows("openai/gsm8k@REVISION", folder, subset="main", split="train")

JSON lines follow the rules of the contract: a line ends at `\\n` alone, a byte order mark is
skipped, numbers are finite. A file `.json` is a list of rows, an object with one, or JSON lines
after all, as some libraries write it. Other formats give the same values, so that the same rows
have the same hash in every format.
"""

from __future__ import annotations

import codecs
import importlib
import math
from collections.abc import Iterable
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from preceptor_clients.contract.json_lines import read_lines
from preceptor_clients.contract.json_text import read_json
from preceptor_trainer.data.hub import hub_name

JSON_LINES: Final = (".jsonl", ".ndjson")
FILES: Final = (*JSON_LINES, ".json", ".parquet")
"""What single files are called; they have no splits."""


class ReadRow(NamedTuple):
    """One row as it was read."""

    where: str
    """File and line, for messages."""
    columns: dict[str, Any]
    """JSON values by column."""


def read_rows(
    source: str, folder: Path, *, split: str = "train", subset: str | None = None
) -> list[ReadRow]:
    """The rows of `source`.

    Args:
        source: Path of a file, or path or hub name of a Hugging Face data set.
        folder: What a relative path is relative to.
        split: Split of a data set; a file has none.
        subset: Subset of a data set that has several.

    Raises:
        ValueError: there is no such file or data set, or a row of it is not one.
    """
    path = folder / source
    if path.is_dir():
        return _of_data_set(source, path, split, subset)
    if path.suffix in JSON_LINES:
        return _json_lines(path, source)
    if path.suffix == ".json":
        return _json(path, source)
    if path.suffix == ".parquet":
        return _parquet(path, source)
    if path.is_file():
        kinds = ", ".join(FILES)
        raise ValueError(f"{source}: is of no kind that is read here: {kinds}, or a data set")
    if hub_name(source) is None:
        raise ValueError(f"{source}: there is no such file or folder in {folder}")
    return _of_data_set(source, None, split, subset)


def _json_lines(path: Path, source: str) -> list[ReadRow]:
    if not path.is_file():
        raise ValueError(f"{source}: there is no such file in {path.parent}")
    rows: list[ReadRow] = []
    for number, text in read_lines(path):
        where = f"{source}:{number}"
        try:
            value = read_json(text.encode())
        except ValueError as error:
            raise ValueError(f"{where}: is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise ValueError(f"{where}: is not a JSON object with the row's columns")
        rows.append(ReadRow(where, cast("dict[str, Any]", value)))
    return rows


def _json(path: Path, source: str) -> list[ReadRow]:
    if not path.is_file():
        raise ValueError(f"{source}: there is no such file in {path.parent}")
    try:
        value = read_json(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        if len(list(read_lines(path))) > 1:
            return _json_lines(path, source)
        raise ValueError(f"{source}: is not JSON: {error}") from None
    rows: list[ReadRow] = []
    for number, row in enumerate(_listed(value, source), start=1):
        if not isinstance(row, dict):
            raise ValueError(f"{source}:{number}: is not a JSON object with the row's columns")
        rows.append(ReadRow(f"{source}:{number}", cast("dict[str, Any]", row)))
    return rows


def _listed(value: Any, source: str) -> list[Any]:
    """The rows of a whole file: a list, or the only list of objects in an object."""
    if isinstance(value, list):
        return cast("list[Any]", value)
    columns = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    lists = [name for name, one in columns.items() if isinstance(one, list) and one
             and all(isinstance(row, dict) for row in cast("list[Any]", one))]  # fmt: skip
    if len(lists) != 1:
        raise ValueError(f"{source}: is neither a list of rows nor an object with one list of them")
    return cast("list[Any]", columns[lists[0]])


def _parquet(path: Path, source: str) -> list[ReadRow]:
    if not path.is_file():
        raise ValueError(f"{source}: there is no such file in {path.parent}")
    table = _library("pyarrow.parquet").read_table(path)
    return _plain_rows(source, table.to_pylist())


def _of_data_set(source: str, path: Path | None, split: str, subset: str | None) -> list[ReadRow]:
    datasets = _library("datasets")
    datasets.disable_progress_bars()
    try:
        if path is not None and _is_saved(path):
            loaded: Any = datasets.load_from_disk(str(path))
            found: Any = loaded[split] if hasattr(loaded, "keys") else loaded
        else:
            name = None if path is not None else hub_name(source)
            repo, revision = (str(path), None) if name is None else name
            found = datasets.load_dataset(repo, subset, split=split, revision=revision)
    except Exception as error:  # the library raises many kinds, most of them its own
        last = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{source}: the split {split!r} could not be loaded: {last[0]}") from error
    return _plain_rows(f"{source}[{split}]", cast("Iterable[dict[str, Any]]", found))


def _is_saved(path: Path) -> bool:
    """Whether `save_to_disk` of `datasets` wrote the folder."""
    return any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{error.name} is not installed, which reads parquet and data sets; "
            "pip install 'preceptor[data]'"
        ) from error


def _plain_rows(source: str, rows: Iterable[dict[str, Any]]) -> list[ReadRow]:
    read: list[ReadRow] = []
    for number, row in enumerate(rows, start=1):
        where = f"{source}:{number}"
        read.append(ReadRow(where, {name: _plain(v, where, name) for name, v in row.items()}))
    return read


def _plain(value: Any, where: str, column: str) -> Any:
    """A value of another format as JSON."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return str(value)
        case datetime() | date() | time():
            return value.isoformat()
        case list() | tuple():
            return [_plain(one, where, column) for one in cast("list[Any]", value)]
        case dict():
            items = cast("dict[str, Any]", value).items()
            return {name: _plain(one, where, column) for name, one in items}
        case _:
            kind = type(value).__name__
            raise ValueError(f"{where}: the column {column!r} holds a {kind}, which is not JSON")
