"""Claims about rows as problems, their ids, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from preceptor_trainer.data.reading import ReadRow
from preceptor_trainer.data.rows import RowFormat, Rows, make_rows
from preceptor_trainer.run.config import describe


def rows_of(*columns: dict[str, Any], **form: Any) -> Rows:
    read = [ReadRow(f"t.jsonl:{i}", dict(c)) for i, c in enumerate(columns, start=1)]
    return make_rows("t.jsonl", read, RowFormat(**form))


def chat_of(columns: dict[str, Any], **form: Any) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in rows_of(columns, **form)[0].messages]


MESSAGES = [{"role": "system", "content": "short"}, {"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("columns", "form", "chat"),
    [
        ({"prompt": "hi"}, {}, [("user", "hi")]),
        ({"messages": MESSAGES}, {}, [("system", "short"), ("user", "hi")]),
        ({"prompt": MESSAGES}, {}, [("system", "short"), ("user", "hi")]),
        ({"prompt": "hi"}, {"system": "be kind"}, [("system", "be kind"), ("user", "hi")]),
        ({"messages": MESSAGES}, {"system": "no"}, [("system", "short"), ("user", "hi")]),
        ({"q": "2+2", "n": 3}, {"prompt": "{q}? {{{n}}}"}, [("user", "2+2? {3}")]),
    ],
)
def test_a_row_becomes_a_chat(
    columns: dict[str, Any], form: dict[str, Any], chat: list[tuple[str, str]]
) -> None:
    assert chat_of(columns, **form) == chat


def test_every_column_reaches_the_judge() -> None:
    columns = {"id": 7, "prompt": "hi", "answer": [1, {"a": None}], "extra": 2.5}

    [row] = rows_of(columns)

    assert row.payload == columns
    assert row.id == "7"


@pytest.mark.parametrize(
    ("columns", "form", "said"),
    [
        ({"question": "q"}, {}, "neither `prompt` nor `messages`, but question"),
        ({"prompt": " "}, {}, "the last user turn is empty"),
        ({"messages": []}, {}, "is not a list of turns"),
        ({"messages": [{"role": "user"}]}, {}, r"messages\[0\]\.content: is a NoneType"),
        ({"messages": [{"role": "tool", "content": "x"}]}, {}, r"messages\[0\]\.role: is 'tool'"),
        ({"messages": [*MESSAGES, {"role": "assistant", "content": "x"}]}, {}, "ends with a turn"),
        ({"q": "x"}, {"prompt": "{question}"}, "has no column 'question'"),
        ({"prompt": "x", "id": 1.5}, {}, "id: is a float"),
        ({"prompt": "x", "id": ""}, {}, "id: has 0 characters"),
        ({"prompt": "x"}, {"reference": "answer"}, "answer: is no reference answer"),
    ],
)
def test_a_row_that_is_no_problem_is_named(
    columns: dict[str, Any], form: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=rf"t\.jsonl:2: .*{said}"):
        rows_of({"prompt": "fine", "q": "x", "question": "y", "answer": "z"}, columns, **form)


def test_an_id_of_content_does_not_depend_on_place_or_order_of_columns() -> None:
    first = rows_of({"prompt": "a", "n": 1}, {"prompt": "b"})
    second = rows_of({"prompt": "b"}, {"n": 1, "prompt": "a"})

    assert {row.id for row in first} == {row.id for row in second}
    assert first.sha256 != second.sha256, "the order is part of the data"


@pytest.mark.parametrize(
    ("columns", "why"), [({"id": 1, "prompt": "b"}, "the id '1'"), ({"prompt": "b"}, "content")]
)
def test_a_row_that_is_there_twice_is_refused_with_both_lines(
    columns: dict[str, Any], why: str
) -> None:
    first = columns | ({"prompt": "a"} if "id" in columns else {})

    with pytest.raises(ValueError, match=rf"t\.jsonl:3: has .*{why}.* as t\.jsonl:1"):
        rows_of(first, {"prompt": "other"}, columns)
    kept = rows_of(first, {"prompt": "other"}, columns, duplicates="drop")
    assert len(kept) == 2
    assert kept.dropped == ("t.jsonl: rows dropped because they are there twice: 1",)


def test_what_is_recorded_of_rows_is_their_hash_and_not_the_rows() -> None:
    described = describe(rows_of({"prompt": "a"}))

    assert set(described) == {"class", "source", "sha256", "num_rows", "dropped"}
    assert described["sha256"] != describe(rows_of({"prompt": "a", "answer": 1}))["sha256"]


def test_a_file_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"t\.jsonl: has no rows"):
        rows_of()
