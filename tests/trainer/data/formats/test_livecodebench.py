"""Claims about LiveCodeBench's files as problems."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from preceptor_clients.contract.programs import ProgramTask
from preceptor_trainer.data.formats.named import format_names, make_format
from preceptor_trainer.data.reading import ReadRow
from preceptor_trainer.data.rows import RowFormat, make_rows

STDIN = [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]
CALL = [{"input": '[1, 2]\n"a"', "output": "true", "testtype": "functional"}]


def packed(value: object) -> str:
    """As the data set packs private cases."""
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def problem(**columns: Any) -> ReadRow:
    found = {
        "question_id": "abc1_a",
        "question_content": "Add two numbers.",
        "question_title": "Sum",
        "starter_code": "",
        "contest_date": "2025-02-01T00:00:00",
        "public_test_cases": json.dumps(STDIN),
        "private_test_cases": packed(json.dumps([{**STDIN[0], "input": "4 5\n", "output": "9\n"}])),
        "metadata": "{}",
    }
    return ReadRow("lcb.jsonl:1", found | columns)


def task_of(row: ReadRow) -> ProgramTask:
    columns = {k: v for k, v in row.columns.items() if k in ProgramTask.model_fields}
    return ProgramTask.model_validate(columns)


def read(row: ReadRow, part: Any = "train", **options: Any) -> ReadRow:
    [found] = make_format("livecodebench", options)([row], part)
    return found


def test_packed_private_cases_are_hidden_and_public_ones_shown() -> None:
    task = task_of(read(problem()))

    assert task.mode == "stdin"
    assert [(case.input, case.expected) for case in task.shown] == [("1 2\n", "3\n")]
    assert [(case.input, case.expected) for case in task.hidden] == [("4 5\n", "9\n")]


def test_a_function_is_called_with_one_argument_a_line() -> None:
    row = problem(
        metadata='{"func_name": "check"}',
        starter_code="class Solution:\n    def check(self, x, y):",
        public_test_cases=json.dumps(CALL),
        private_test_cases="[]",
    )

    task = task_of(read(row))

    assert (task.mode, task.entry) == ("function", "check")
    assert task.shown[0].input == [[1, 2], "a"]
    assert task.shown[0].expected is True


def test_its_prompt_is_the_benchmarks_own() -> None:
    [row] = make_rows("lcb", [read(problem())], RowFormat())

    assert [turn["role"] for turn in row.messages] == ["system", "user"]
    assert row.messages[1]["content"].startswith("### Question:\nAdd two numbers.\n\n### Format: ")
    assert "# YOUR CODE HERE" in row.messages[1]["content"]


def test_a_short_prompt_is_the_question_alone() -> None:
    row = read(problem(starter_code="def f(x):"), prompt="short")

    assert row.columns["messages"] == [
        {"role": "user", "content": "Add two numbers.\n```python\ndef f(x):\n```"}
    ]


def test_contests_are_chosen_by_their_day() -> None:
    old = problem(question_id="old", contest_date="2025-01-31T23:59:00")
    late = problem(question_id="late", contest_date="2025-05-01T00:00:00")

    chosen = make_format("livecodebench", {"since": "2025-02-01", "before": "2025-05-01"})

    assert [row.columns["id"] for row in chosen([old, problem(), late], "train")] == ["abc1_a"]


def test_half_of_the_private_cases_is_trained_on_and_all_are_held_out() -> None:
    cases = [{"input": str(i), "output": str(i), "testtype": "stdin"} for i in range(9)]
    row = problem(public_test_cases="[]", private_test_cases=packed(json.dumps(cases)))

    trained = task_of(read(row, train_share=0.5, private="shown")).shown
    held_out = task_of(read(row, "held_out", train_share=0.5, private="shown")).shown

    assert len(trained) == 4
    assert set(trained) < set(held_out)
    assert len(held_out) == 9


class Boom:
    """A pickle that would run code when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("/tmp/preceptor-boom").touch, ())


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (packed(Boom()), "is not a pickle of one text: holds the operation"),
        (packed(["a"]), "is not a pickle of one text: holds the operation"),
        (packed("no list"), "is not JSON"),
        (base64.b64encode(b"plain").decode(), "is neither JSON nor packed"),
        (base64.b64encode(zlib.compress(b"\x80\x04x")).decode(), "is not a pickle of one text"),
        (base64.b64encode(zlib.compress(pickle.dumps("x" * 99))[:-9]).decode(), "is cut off"),
        ('[{"input": 1}]', r"private_test_cases\[0\]: has no texts"),
        (json.dumps(CALL), "is of type 'functional'"),
    ],
)
def test_private_cases_that_are_something_else_are_refused_by_line(column: str, said: str) -> None:
    with pytest.raises(ValueError, match=rf"lcb.jsonl:1: .*{said}"):
        read(problem(private_test_cases=column))


def test_long_cases_travel_packed_and_are_the_same() -> None:
    long = [{"input": "7 " * 20_000, "output": "7", "testtype": "stdin"}]
    row = read(problem(private_test_cases=packed(json.dumps(long))))

    assert isinstance(row.columns["hidden"], str)
    assert len(row.columns["hidden"]) < 1_000
    assert task_of(row).hidden[0].input == "7 " * 20_000


def test_an_unknown_format_or_option_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean `livecodebench`"):
        make_format("livecodebnch", {})
    with pytest.raises(ValueError, match=r"options\.sinc: is unknown; did you mean `since`"):
        make_format("livecodebench", {"sinc": "2025-02-01"})


@pytest.mark.parametrize("name", format_names())
def test_every_format_has_options_with_defaults(name: str) -> None:
    assert callable(make_format(name, {}))
