"""Claims about files that the field has: their columns, the prompts made of them, what is refused.

The rows are our own, in the forms of the public files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preceptor_clients.sdk import Response
from preceptor_clients.sdk.judging import load_judge
from preceptor_trainer.data.formats.named import format_names, make_format
from preceptor_trainer.data.reading import ReadRow, read_rows
from preceptor_trainer.data.rows import RowFormat, make_rows

SCIENCE: dict[str, Any] = {
    "question": "Which gas do plants take in?",
    "choices": {"text": ["Oxygen", "Carbon dioxide"], "label": ["A", "B"]},
    "answerKey": "B",
    "type": "mcq-2-choices",
    "domain": "Biology",
    "details": {"level": "L3", "task": "x"},
    "prompt": {"default": "Pick."},
}
RECORD: dict[str, Any] = {
    "idx": 3, "dataset": "sciknoweval", "kind": "mcq", "system": "Answer in tags.",
    "prompt": "Which gas do plants take in?\n\nA: Oxygen\nB: Carbon dioxide", "answer": " B",
    "tests": "-", "elo": "1500",
}  # fmt: skip
CALLS = [{"Action": "getWeather", "Action_Input": '{"city": "Rome"}'}]
INTERFACE: dict[str, Any] = {
    "Name": "Weather",
    "NLDocumentation": "getWeather: the weather of a city.\nParameters: {city}",
    "Instructions": ["How is it in Rome?", "And nowhere?"],
    "Golden_Answers": [CALLS, []],
}
REQUEST: dict[str, Any] = {"prompt": "How is it in Rome?", "golden_answer": json.dumps(CALLS)}
AIME: dict[str, Any] = {"id": 60, "problem": "What is 1 + 1?", "answer": "002", "year": 2024}
AMC: dict[str, Any] = {"question": "What is 1 + 1?", "answer": 2.0}
MATH500: dict[str, Any] = {
    "problem": "What is 1 + 1?", "solution": r"It is $\boxed{2}$.", "answer": "2", "level": 1,
    "subject": "Algebra", "unique_id": "test/algebra/1.json",
}  # fmt: skip
GSM8K: dict[str, Any] = {"question": "What is 1 + 1?", "answer": "1 and 1 are 2.\n#### 2"}
VERL: dict[str, Any] = {
    "data_source": "dapo",
    "prompt": [{"role": "user", "content": "What is 1 + 1?"}],
    "reward_model": {"style": "rule", "ground_truth": "2"},
}
PUZZLE: dict[str, Any] = {
    "quiz": "Ella says that Bo lies. Bo says that both lie. Who is what?",
    "names": ["Ella", "Bo"],
    "solution": [True, False],
    "solution_text_format": "(1) Ella is a knight\n(2) Bo is a knave",
    "knight_knave": {"knight": "knight", "knave": "knave"},
    "statements": "(('lying', 1),)",
}
GYM: dict[str, Any] = {
    "question": PUZZLE["quiz"],
    "answer": "Ella is a knight, and Bo is a knave.",
    "metadata": {"names": ["Ella", "Bo"], "solution": [True, False]},
}


def made(name: str, *rows: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    read = [ReadRow(f"file:{i}", row) for i, row in enumerate(rows, start=1)]
    return [row.columns for row in make_format(name, options)(read, "train")]


def asked(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in row["messages"]]


RIGHT = {
    "sciknoweval": ("choice", "<answer>B</answer>"),
    "tool_use": ("tool_calls", 'Action: getWeather\nAction Input: {"city": "Rome"}'),
    "math": ("math", r"\boxed{2}"),
    "knights_and_knaves": ("knights_and_knaves", "<answer>Ella is a knight, Bo: knave</answer>"),
}


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("sciknoweval", SCIENCE), ("sciknoweval", RECORD), ("tool_use", INTERFACE),
        ("tool_use", REQUEST), ("math", AIME), ("math", AMC), ("math", MATH500), ("math", GSM8K),
        ("math", VERL), ("knights_and_knaves", PUZZLE), ("knights_and_knaves", GYM),
    ],
)  # fmt: skip
def test_a_row_becomes_a_problem_that_its_verifier_judges(name: str, row: dict[str, Any]) -> None:
    verifier, right = RIGHT[name]

    [columns] = made(name, row)
    [problem] = make_rows("file", [ReadRow("file:1", columns)], RowFormat())
    judge = load_judge(verifier)

    assert judge(problem.payload, Response(right)).score == 1.0
    assert judge(problem.payload, Response("I do not\nknow it.")).score == 0.0
    question = str(row.get("question") or row.get("problem") or row.get("quiz") or "")
    assert question in problem.messages[-1]["content"]


def test_every_format_but_that_of_programs_is_tried_here() -> None:
    assert set(format_names()) == {*RIGHT, "livecodebench"}


def test_a_science_question_asks_for_one_letter_in_tags() -> None:
    [raw], [record], [short] = (
        made("sciknoweval", SCIENCE), made("sciknoweval", RECORD),
        made("sciknoweval", SCIENCE, prompt="short"),
    )  # fmt: skip

    assert [role for role, _ in asked(raw)] == ["system", "user"]
    assert "<answer>" in asked(raw)[0][1]
    assert "A: Oxygen\nB: Carbon dioxide" in asked(raw)[1][1]
    assert asked(record) == [("system", "Answer in tags."), ("user", RECORD["prompt"])]
    assert [role for role, _ in asked(short)] == ["user"]


def test_science_questions_are_chosen_by_domain_level_and_kind() -> None:
    rows = [
        SCIENCE,
        SCIENCE | {"domain": "Physics"},
        SCIENCE | {"details": {"level": "L1"}},
        SCIENCE | {"type": "open-ended-qa", "answerKey": None},
    ]

    assert len(made("sciknoweval", *rows)) == 3
    assert len(made("sciknoweval", *rows, domain="Biology", level="L3")) == 1
    with pytest.raises(ValueError, match="file:1: no question is of domain Chemistry"):
        made("sciknoweval", *rows, domain="Chemistry")


def test_an_interface_with_many_requests_is_as_many_rows() -> None:
    both = INTERFACE | {"Golden_Answers": [CALLS, CALLS]}

    rows = made("tool_use", both)

    assert [asked(row)[1][1].splitlines()[-1] for row in rows] == [
        "Request: How is it in Rome?",
        "Request: And nowhere?",
    ]
    assert "getWeather: the weather of a city." in asked(rows[0])[1][1]
    assert [role for role, _ in asked(made("tool_use", REQUEST, system="")[0])] == ["user"]


def test_a_problem_of_mathematics_asks_for_a_box_and_a_chat_is_left_as_it_is() -> None:
    assert asked(made("math", AIME)[0])[0][1].endswith(r"within \boxed{}.")
    assert asked(made("math", AIME, instruction="")[0]) == [("user", "What is 1 + 1?")]
    assert asked(made("math", VERL)[0]) == [("user", "What is 1 + 1?")]
    assert made("math", MATH500)[0]["id"] == "test/algebra/1.json"
    assert "id" not in made("math", AIME)[0], "another file may count from the same number"
    assert len(made("math", MATH500, MATH500 | {"level": 5}, levels=[5])) == 1


def test_puzzles_are_chosen_by_the_number_of_people() -> None:
    three = PUZZLE | {"names": ["Ella", "Bo", "Cy"]}

    assert len(made("knights_and_knaves", PUZZLE, three, people=[2])) == 1
    assert [role for role, _ in asked(made("knights_and_knaves", PUZZLE, system="")[0])] == ["user"]


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("sciknoweval", SCIENCE | {"choices": {"label": ["A"], "text": []}}, "choices: has no"),
        ("sciknoweval", SCIENCE | {"answerKey": None}, "has none of the columns answerKey"),
        ("sciknoweval", RECORD | {"answer": 3}, "answer: is a int, not a text"),
        ("tool_use", INTERFACE | {"Golden_Answers": []}, "Golden_Answers: has 0 answers to 2"),
        ("tool_use", REQUEST | {"golden_answer": 3}, "golden_answer: is a int"),
        ("tool_use", {"golden_answer": CALLS}, "has none of the columns prompt, instruction, but"),
        ("tool_use", {"prompt": "x"}, "no request has an answer"),
        ("math", {"answer": "2"}, "has none of the columns problem"),
        ("math", {"problem": "x", "answer": True}, "answer: is missing or no answer: True"),
        ("knights_and_knaves", {"quiz": "x"}, "names: is no list of names"),
        ("knights_and_knaves", {"quiz": "x", "names": ["A"]}, "solution: is missing"),
    ],
)
def test_a_row_of_another_form_is_refused_with_its_place(
    name: str, row: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=f"file:1: {said}"):
        made(name, row)


def test_every_kind_of_file_gives_the_same_problems(tmp_path: Path) -> None:
    rows = [SCIENCE, SCIENCE | {"question": "And which do they give?", "answerKey": "A"}]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    form = make_format("sciknoweval", {})
    hashes = {
        make_rows(name, form(read_rows(name, tmp_path), "train"), RowFormat()).sha256
        for name in ("saved", "rows.parquet", "rows.json", "rows.jsonl")
    }

    assert len(hashes) == 1
