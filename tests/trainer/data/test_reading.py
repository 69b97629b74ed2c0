"""Claims about reading rows of data."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preceptor_trainer.data.reading import read_rows
from preceptor_trainer.data.rows import RowFormat, make_rows

ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "one\u2028line", "answer": 1, "tags": ["x"]},
    {"id": "b", "prompt": "zwei", "answer": 2, "tags": []},
]


FORMS = ("rows.jsonl", "list.json", "object.json", "lines.json", "rows.parquet", "saved", "hub")


def columns(source: str, folder: Path, **options: Any) -> list[dict[str, Any]]:
    return [row.columns for row in read_rows(source, folder, **options)]


def test_a_line_of_json_ends_at_its_line_feed_alone(tmp_path: Path) -> None:
    text = '\ufeff{"prompt": "a\u2028b\u0085c"}\r\n\n{"prompt": "d"}'
    (tmp_path / "train.jsonl").write_text(text, encoding="utf-8", newline="")

    rows = read_rows("train.jsonl", tmp_path)

    assert [row.columns["prompt"] for row in rows] == ["a\u2028b\u0085c", "d"]
    assert [row.where for row in rows] == ["train.jsonl:1", "train.jsonl:3"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{'prompt': 1}", "rows.jsonl:2: is not JSON"),
        ('{"prompt": NaN}', "rows.jsonl:2: is not JSON"),
        ('{"prompt": "\\ud800"}', "rows.jsonl:2: is not JSON"),
        ("[1]", "rows.jsonl:2: is not a JSON object"),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "fine"}\n' + line)

    with pytest.raises(ValueError, match=said):
        read_rows("rows.jsonl", tmp_path)


def test_the_same_rows_have_the_same_hash_in_every_format(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table, tmp_path / "rows.parquet")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    (tmp_path / "hub" / "data").mkdir(parents=True)
    pq.write_table(table, tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    pq.write_table(table.slice(1), tmp_path / "hub" / "data" / "test-00000-of-00001.parquet")
    datasets.Dataset.from_list(ROWS).to_json(tmp_path / "rows.jsonl")
    (tmp_path / "list.json").write_text("\ufeff" + json.dumps(ROWS), encoding="utf-8")
    (tmp_path / "object.json").write_text(json.dumps({"version": [1], "data": ROWS}, indent=1))
    datasets.Dataset.from_list(ROWS).to_json(tmp_path / "lines.json")

    hashes = {
        make_rows(source, read_rows(source, tmp_path), RowFormat()).sha256 for source in FORMS
    }

    assert len(hashes) == 1
    assert columns("hub", tmp_path, split="test") == ROWS[1:]


def test_values_that_json_lacks_are_written_plainly_or_named(tmp_path: Path) -> None:
    day = datetime.date(2026, 11, 29)
    pq.write_table(pa.table({"when": [day], "part": [float("nan")]}), tmp_path / "fine.parquet")
    pq.write_table(pa.table({"raw": [b"\xff"]}), tmp_path / "bytes.parquet")

    assert columns("fine.parquet", tmp_path) == [{"when": "2026-11-29", "part": None}]
    with pytest.raises(ValueError, match=r"bytes\.parquet:1: the column 'raw' holds a bytes"):
        columns("bytes.parquet", tmp_path)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("missing.jsonl", "there is no such file in"),
        ("missing.parquet", "there is no such file in"),
        ("missing.json", "there is no such file in"),
        ("broken.json", "broken.json: is not JSON"),
        ("two.json", "neither a list of rows nor an object with one list"),
        ("numbers.json", "numbers.json:1: is not a JSON object"),
        ("./no/such/place", "there is no such file or folder in"),
        ("table.csv", "is of no kind that is read here"),
        ("empty", "the split 'train' could not be loaded"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused(tmp_path: Path, source: str, said: str) -> None:
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text('[{"prompt": ')
    (tmp_path / "two.json").write_text('{"a": [{}], "b": [{}]}')
    (tmp_path / "numbers.json").write_text("[1, 2]")

    with pytest.raises(ValueError, match=said):
        read_rows(source, tmp_path)
