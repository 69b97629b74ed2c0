"""Tasks that an environment's server lists, in the place of a data file."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import BuildFile
from .task_server import serving

FILE = """
[data]
train = "environment"
prompt = "{question}"
[environment]
url = "URL"
actions = "field"
action_field = "a"
[objective]
use = "grpo"
[optim]
prompts_per_step = 2
"""


def tasks(name: str, count: int) -> list[dict[str, Any]]:
    return [{"question": f"{name} {i}", "index": "its own"} for i in range(count)]


def test_tasks_of_a_split_are_the_rows_with_what_their_sessions_are_reset_to(
    build_file: BuildFile,
) -> None:
    with serving({"train": tasks("count", 3), "test": tasks("held", 2)}) as server:
        built = build_file("data.eval_split=test", text=FILE.replace("URL", server.url))

    rows, evaluation = built.config.problems.rows, built.config.evaluation
    assert [row.messages[0]["content"] for row in rows] == ["count 0", "count 1", "count 2"]
    assert [(row.payload["split"], row.payload["index"]) for row in rows] == [
        ("train", 0),
        ("train", 1),
        ("train", 2),
    ]
    assert evaluation is not None
    assert [row.payload["split"] for row in evaluation.problems] == ["test", "test"]
    assert built.rows[0] == f"trains on  {server.url}[train], 3 rows"


def test_many_tasks_are_read_in_parts_and_no_more_than_asked_for(build_file: BuildFile) -> None:
    with serving({"train": tasks("count", 600)}) as server:
        text = FILE.replace("URL", server.url)
        built = build_file("environment.max_tasks=300", text=text)

    assert [row.payload["index"] for row in built.config.problems.rows] == list(range(300))
    assert server.ranges == [(0, 256), (256, 300)]
    assert f"{server.url}[train]: tasks beyond environment.max_tasks: 300" in built.notes


def test_a_task_that_is_no_object_is_the_column_task(build_file: BuildFile) -> None:
    with serving({"train": ["one", "two"]}) as server:
        built = build_file('data.prompt="Do {task}."', text=FILE.replace("URL", server.url))

    assert [row.messages[0]["content"] for row in built.config.problems.rows] == [
        "Do one.",
        "Do two.",
    ]


def test_an_environment_without_tasks_is_refused_with_what_to_do(build_file: BuildFile) -> None:
    with serving({}) as server, pytest.raises(ValueError, match=r"environment\.url: ") as refused:
        build_file(text=FILE.replace("URL", server.url))

    assert str(refused.value).endswith(
        "offers no tasks: GET /count%20env/splits gave 501 (/count%20env/splits is not supported "
        "for this environment); name a data file, with a row for each task"
    )


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("data.train_split=dev", "has no split 'dev' of tasks; there are train"),
        ("data.prompt={answer}", "has no column 'answer', which data.prompt names"),
        ("environment.use=verifiers", "data.train: 'environment' are the tasks that a server of"),
        ("data.train=train.jsonl", "has no column 'question'"),
    ],
)
def test_what_the_server_does_not_have_is_named(
    build_file: BuildFile, setting: str, said: str
) -> None:
    with serving({"train": tasks("count", 3)}) as server:
        text = FILE.replace("URL", server.url)
        if "verifiers" in setting:
            text = text.replace('actions = "field"\naction_field = "a"\n', "")
        with pytest.raises(ValueError, match=r"data|environment|train") as refused:
            build_file(setting, text=text)

    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("num_more", "broken", "said"),
    [
        (2, None, "gave 3 tasks of 'train' for the places 0 to 4"),
        (0, (500, {"detail": "it broke"}), "GET /list_environments gave 500: it broke"),
        (0, (200, {}), "named no environment: {}"),
        (0, (200, ["x"]), "an answer has no `name`"),
    ],
)
def test_a_server_that_answers_wrongly_is_told_so(
    build_file: BuildFile, num_more: int, broken: tuple[int, Any] | None, said: str
) -> None:
    with serving({"train": tasks("count", 3)}, num_more=num_more) as server:
        server.broken = broken
        with pytest.raises(ValueError, match=r"environment\.url") as refused:
            build_file(text=FILE.replace("URL", server.url))

    assert said in str(refused.value)


def test_a_server_that_is_not_there_is_said_to_be(build_file: BuildFile) -> None:
    with serving({}) as server:
        gone = server.url

    with pytest.raises(ValueError, match=f"environment.url: {gone}: its tasks cannot be read"):
        build_file("environment.timeout_s=0.5", text=FILE.replace("URL", gone))


def test_tasks_need_an_environment_that_lists_them(build_file: BuildFile) -> None:
    without = FILE.split("[environment]")[0]
    with pytest.raises(ValueError, match=r"data.train: .* but \[environment\] is missing"):
        build_file(text=without)

    with pytest.raises(ValueError, match=r"environment.max_tasks: has a meaning where"):
        build_file("data.train=train.jsonl", "environment.max_tasks=3", text=FILE)
