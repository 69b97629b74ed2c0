"""Claims about held-out rows, lengths and epochs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import datasets
import pytest

from preceptor_trainer.data.epochs import Epochs
from preceptor_trainer.data.lengths import keep_short
from preceptor_trainer.data.reading import ReadRow
from preceptor_trainer.data.rows import RowFormat, Rows, make_rows
from preceptor_trainer.data.splits import apart, at_most, hold_out, hold_out_as_datasets


def rows_of(source: str, columns: Sequence[Mapping[str, Any]]) -> Rows:
    read = [ReadRow(f"{source}:{i}", dict(c)) for i, c in enumerate(columns, start=1)]
    return make_rows(source, read, RowFormat())


def numbered(count: int, source: str = "train") -> Rows:
    return rows_of(source, [{"id": f"{source}{i}", "prompt": f"{i}"} for i in range(count)])


def ids(rows: Sequence[Any]) -> list[str]:
    return [row.id for row in rows]


def test_a_share_is_held_out_by_id_whatever_the_order() -> None:
    rows = numbered(40)
    turned = rows_of("train", [row.payload for row in reversed(rows.rows)])

    train, held = hold_out(rows, 0.25)
    other, same = hold_out(turned, 0.25)

    assert (len(train), len(held)) == (30, 10)
    assert set(ids(held)) == set(ids(same))
    assert set(ids(train)) == set(ids(other)) == set(ids(rows)) - set(ids(held))


def test_a_share_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.1 of 3 rows leaves 0 held out"):
        hold_out(numbered(3), 0.1)


def test_a_papers_split_is_that_of_the_library() -> None:
    rows = numbered(935)
    split = datasets.Dataset.from_dict({"id": ids(rows)}).train_test_split(test_size=0.1, seed=42)

    train, held = hold_out_as_datasets(rows, 0.1, 42)

    assert (len(train), len(held)) == (841, 94)
    assert (ids(train), ids(held)) == (split["train"]["id"], split["test"]["id"])
    with pytest.raises(ValueError, match="leaves 1 held out"):
        hold_out_as_datasets(numbered(1), 0.1, 42)


SAME = rows_of("dev", [{"id": "x", "prompt": "new"}, {"id": "d", "prompt": " two\nwords "}])
TRAIN = rows_of("train", [{"id": "x", "prompt": "a"}, {"prompt": "two words"}, {"prompt": "fine"}])


def test_rows_that_are_held_out_and_trained_on_are_named() -> None:
    with pytest.raises(ValueError, match="2 training rows are held out too") as refused:
        apart(TRAIN, SAME, "refuse")

    assert "train:1 and dev:1: the same id 'x'" in str(refused.value)
    assert "train:2 and dev:2: the same prompt" in str(refused.value)


@pytest.mark.parametrize(("overlap", "left"), [("drop", 1), ("allow", 3)])
def test_such_rows_are_dropped_or_kept_as_asked(
    overlap: Literal["drop", "allow"], left: int
) -> None:
    kept = apart(TRAIN, SAME, overlap)

    assert len(kept) == left
    assert len(kept.dropped) == (overlap == "drop")


def test_fewer_held_out_rows_are_the_same_ones_each_time() -> None:
    rows = numbered(20)

    assert ids(at_most(rows, 5)) == ids(at_most(rows, 5))
    assert len(at_most(rows, 5)) == 5
    assert at_most(rows, 50) is rows


def test_long_prompts_are_dropped_counted_and_named() -> None:
    rows = rows_of("train", [{"prompt": "x" * n} for n in (3, 9, 4, 12)])

    kept = keep_short(rows, lambda chat: len(chat[-1]["content"]), 8)

    assert len(kept) == 2
    assert kept.dropped == (
        "train: 2 of 4 rows are dropped: their prompts have more than 8 tokens, up to 12, such as "
        "train:2",
    )
    assert kept.sha256 != rows.sha256


def test_a_limit_that_leaves_no_row_is_refused() -> None:
    with pytest.raises(ValueError, match=r"all 3 rows have more than 0 tokens.*max_prompt"):
        keep_short(numbered(3), lambda chat: 1, 0)


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_epoch_has_every_row_once(shuffle: bool) -> None:
    epochs = Epochs(rows=numbered(10), seed=1, per_step=4, shuffle=shuffle)

    taken = [row for step in range(10) for row in ids(epochs(step))]

    for epoch in range(4):
        assert len(set(taken[epoch * 10 : epoch * 10 + 10])) == 10
    assert Counter(taken).most_common(1)[0][1] == 4


def test_a_step_has_the_same_rows_whenever_it_is_asked() -> None:
    epochs = Epochs(rows=numbered(10), seed=1, per_step=4)
    again = Epochs(rows=numbered(10), seed=1, per_step=4)
    others = Epochs(rows=numbered(10), seed=2, per_step=4)

    assert [ids(epochs(step)) for step in (7, 3)] == [ids(again(7)), ids(again(3))]
    assert [ids(epochs(step)) for step in range(5)] != [ids(others(step)) for step in range(5)]


def test_a_step_that_is_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match="per_step: 4 is outside 1 to 3"):
        Epochs(rows=numbered(3), seed=0, per_step=4)
