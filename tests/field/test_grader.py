"""What the grader forgives: the page's table and the cases behind it, in real processes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from preceptor_clients.contract.comparison import compact
from preceptor_clients.contract.schemas import FeedbackItem, FeedbackQuery, Message, Prompt
from preceptor_services.feedback.executor import Executor
from preceptor_trainer.collect.context import NothingInView
from preceptor_trainer.collect.labelling import Labeller
from preceptor_trainer.tasks.task import NOT_JUDGED

PAGE = next((Path(__file__).parents[2] / "docs").rglob("what-the-grader-forgives.md"))
ROW = re.compile(r"\| `(.+)` \| `(.+)` \| `(.+)` \| ([01]) \| .+ \|")
TABLE = [ROW.fullmatch(line) for line in PAGE.read_text().split("\n") if line.startswith("| `")]


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    service = Executor(workers=2, cpu_seconds=1.0, timeout_s=60.0)
    asyncio.run(service.start())
    assert service.ready()
    yield service
    asyncio.run(service.stop())


def query(program: str, given: Any, expected: Any) -> FeedbackQuery:
    return FeedbackQuery(
        rollout_id="r",
        prompt=Prompt(messages=(Message(role="user", content="Do it."),)),
        response_ids=[1],  # type: ignore[arg-type]
        response_text=program,
        finish_reason="stop",
        payload_sha256="0" * 64,
        payload={"shown": [{"input": given, "expected": expected}]},
    )


async def graded(executor: Executor, *asked: Any) -> FeedbackItem:
    [answer] = await executor.feedback([query(*asked)])
    assert not isinstance(answer, Exception), answer
    return answer.items[0]


def test_every_row_of_the_page_is_read() -> None:
    assert len(TABLE) > 20
    assert all(row is not None for row in TABLE)


@pytest.mark.parametrize("row", [row for row in TABLE if row], ids=lambda row: row[1])
async def test_the_page_says_what_the_executor_does(executor: Executor, row: re.Match[str]) -> None:
    program, given, expected, score = row.groups()

    item = await graded(executor, program, json.loads(given), json.loads(expected))

    assert item.score == float(score)


@pytest.mark.parametrize("digits", [4_300, 4_301, 20_000])
async def test_integers_of_any_length_go_in_and_out(executor: Executor, digits: int) -> None:
    number = 10 ** (digits - 1) + 7

    assert (await graded(executor, "x + 1", number, number + 1)).score == 1.0
    assert (await graded(executor, "x + 1", number, number)).score == 0.0
    assert (await graded(executor, "int(str(x)[::-1])", number, 7 * 10 ** (digits - 1) + 1)).score


async def test_a_very_deep_value_fails_its_own_case_alone(executor: Executor) -> None:
    deep = "(f := lambda n: [f(n - 1)] if n else [])({})"

    asked = [query(deep.format(depth), 0, []) for depth in (100, 300, 450, 900)]
    *failed, passed = await executor.feedback([*asked, query("x", 0, 0)])

    assert [answer.items[0].score for answer in failed] == [0.0] * 4  # type: ignore[union-attr]
    assert passed.items[0].score == 1.0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ([1, 2, {"a": 3}], "[1,2,{'a':3}]"),
        (["a, b", "it's: so", 'q", "'], "['a, b',\"it's: so\",'q\", \"']"),
        ({"k: v": "\\', "}, "{'k: v':\"\\\\', \"}"),
    ],
)
def test_a_written_value_keeps_the_spaces_of_its_texts(value: Any, written: str) -> None:
    assert compact(value) == written


@dataclass
class KeepingBlobs:
    """Keeps what was put, in order."""

    blobs: list[bytes] = field(default_factory=list[bytes])

    async def put_blob(self, content: bytes) -> str:
        self.blobs.append(content)
        return hashlib.sha256(content).hexdigest()


async def test_a_payload_keeps_the_order_of_its_keys_and_is_put_once() -> None:
    gateway = KeepingBlobs()
    labeller = Labeller(
        gateway=gateway,  # type: ignore[arg-type]
        run="r",
        task=NOT_JUDGED,
        experts=(),
        context=NothingInView(),
        vocab_fingerprint="0" * 64,
        batching="group",
    )

    first = await labeller.put_payload({"b": 1, "a": 2})
    await labeller.put_payload({"b": 1, "a": 2})
    second = await labeller.put_payload({"a": 2, "b": 1})

    assert gateway.blobs == [b'{"b":1,"a":2}', b'{"a":2,"b":1}']
    assert first != second
