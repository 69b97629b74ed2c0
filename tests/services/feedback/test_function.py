"""Claims about judges as feedback sources, with real processes."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from preceptor_clients.contract.checks import check_feedback
from preceptor_clients.contract.errors import PreceptorError, ServiceFailed
from preceptor_clients.contract.schemas import (
    Episode,
    FeedbackAnswer,
    FeedbackItem,
    FeedbackQuery,
    Message,
)
from preceptor_services.feedback.function import Function

MakeQuery = Callable[..., FeedbackQuery]

JUDGE = """
import asyncio, os, time
from neighbour import RIGHT
from preceptor_clients.sdk import Feedback

def judge(row, response, *, strict=False):
    print("what a judge prints is not a reply")
    if response == "crash":
        os._exit(3)
    if response == "hang":
        time.sleep(600)
    if response == "cut":
        return Feedback(0.25, f"{response.cut_off}")
    kinds = {"true": True, "half": 0.5, "none": None, "nan": float("nan"), "list": [1],
             "say": Feedback(0, "look\\ud800 again"), "talk": Feedback(text="no score"),
             "last": Feedback(0, " ".join(t["role"] for t in response.turns))}
    if response in kinds:
        return kinds[response]
    if strict:
        return Feedback(float("inf"))
    return row["answer"] / (response != RIGHT)

async def slow(row, response):
    if response == "hang":
        await asyncio.sleep(600)
    if response == "stuck":
        time.sleep(600)
    await asyncio.sleep(0.05)
    return response == "right"
"""


@pytest.fixture
def judge(tmp_path: Path) -> str:
    (tmp_path / "neighbour.py").write_text("RIGHT = 'right'")
    (tmp_path / "judge.py").write_text(JUDGE)
    return f"{tmp_path}/judge.py:judge"


@asynccontextmanager
async def source(function: str, **options: Any) -> AsyncIterator[Function]:
    service = Function(function=function, name="mine", **options)
    await service.start()
    yield service
    await service.stop()


def query(response: str, row: object = None, *, number: int = 0) -> FeedbackQuery:
    return FeedbackQuery.model_validate(
        {
            "rollout_id": f"r{number}",
            "prompt": {"messages": [{"role": "user", "content": "?"}]},
            "response_ids": [1],
            "response_text": response,
            "finish_reason": "length" if response == "cut" else "stop",
            "payload_sha256": "0" * 64,
            "payload": {"answer": 1} if row is None else row,
        }
    )


async def judged(service: Function, *responses: str) -> list[FeedbackItem]:
    items: list[FeedbackItem] = []
    for item in await items_or_problems(service, *responses):
        assert isinstance(item, FeedbackItem), item
        items.append(item)
    return items


async def items_or_problems(
    service: Function, *responses: str
) -> list[FeedbackItem | PreceptorError]:
    queries = [query(text, number=i) for i, text in enumerate(responses)]
    found: list[FeedbackItem | PreceptorError] = []
    for asked, answer in zip(queries, await service.feedback(queries), strict=True):
        if isinstance(answer, PreceptorError):
            found.append(answer)
            continue
        check_feedback(asked, answer)
        found += answer.items
    return found


@pytest.mark.parametrize(
    ("response", "score", "text"),
    [
        ("true", 1.0, None),
        ("half", 0.5, None),
        ("say", 0.0, "look? again"),
        ("talk", None, "no score"),
        ("cut", 0.25, "True"),
    ],
)
async def test_what_a_judge_returns_becomes_score_and_text(
    judge: str, response: str, score: float | None, text: str | None
) -> None:
    async with source(judge, workers=1) as service:
        [item] = await judged(service, response)

    assert (item.score, item.text, item.error) == (score, text, None)
    assert (item.kind, item.source, item.version) == ("verdict", "mine", service.info().version)


async def test_a_judge_gets_the_last_turn_and_knows_the_others(judge: str) -> None:
    turns = [("assistant", "call"), ("tool", "output"), ("assistant", "last")]
    told = Episode(turns=tuple(Message(role=role, content=text) for role, text in turns))
    asked = query("call output last").model_copy(update={"episode": told})

    async with source(judge, workers=1) as service:
        [answer] = await service.feedback([asked])

    assert isinstance(answer, FeedbackAnswer)
    assert answer.items[0].text == "assistant tool assistant"


@pytest.mark.parametrize(
    ("response", "said"),
    [
        ("none", "the judge returned a NoneType; it has to return a number"),
        ("list", "the judge returned a list; it has to return a number"),
        ("nan", "score: nan is not a finite number"),
        ("right", "ZeroDivisionError: division by zero (judge.py, line 21)"),
        ("crash", "the judge's process ended with code 3"),
        ("hang", "took longer than 2 s"),
    ],
)
async def test_a_judgement_that_fails_is_a_problem_which_no_question_keeps_as_its_answer(
    judge: str, response: str, said: str
) -> None:
    timeout_s = 2.0 if response == "hang" else 60.0
    async with source(judge, workers=1, timeout_s=timeout_s) as service:
        failed, following = await items_or_problems(service, response, "true")

    assert isinstance(failed, ServiceFailed)
    assert said in failed.detail
    assert isinstance(following, FeedbackItem)
    assert following.score == 1.0, "the next call has a process again"


async def test_options_reach_the_judge_and_change_the_version(judge: str) -> None:
    async with source(judge, workers=1) as plain:
        async with source(judge, workers=1, options={"strict": True}) as strict:
            [failed] = await items_or_problems(strict, "anything")

        assert "inf is not a finite number" in str(failed)
        assert plain.info().version != strict.info().version
        # The gateway kept failed judgements as answers of the versions that begin with 1.
        assert not plain.info().version.startswith("1-")


async def test_an_edited_neighbour_is_another_version(judge: str, tmp_path: Path) -> None:
    async with source(judge, workers=1) as first:
        (tmp_path / "neighbour.py").write_text("RIGHT = 'left'")
        async with source(judge, workers=1) as second:
            assert first.info().version != second.info().version


async def test_an_edited_module_of_the_judges_package_is_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "judges" / "inner").mkdir(parents=True)
    (tmp_path / "judges" / "shared.py").write_text("RIGHT = 'right'")
    (tmp_path / "judges" / "inner" / "one.py").write_text(
        "from judges.shared import RIGHT\ndef judge(row, response):\n    return response == RIGHT"
    )
    monkeypatch.syspath_prepend(tmp_path)

    async with source("judges.inner.one:judge", workers=1) as first:
        (tmp_path / "judges" / "shared.py").write_text("RIGHT = 'left'")
        async with source("judges.inner.one:judge", workers=1) as second:
            assert first.info().version != second.info().version


async def test_another_version_of_a_library_that_a_judge_names_is_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "by.py").write_text(
        "def judge(row, response): return 1\njudge.libraries = ('lib',)"
    )
    monkeypatch.syspath_prepend(tmp_path)

    versions: set[str] = set()
    for number in ("1.0", "1.1"):
        about = tmp_path / f"lib-{number}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lib\nVersion: {number}\n")
        async with source("by:judge", workers=1) as service:
            versions.add(service.info().version)
        (about / "METADATA").unlink()
        about.rmdir()

    assert len(versions) == 2


async def test_a_judge_that_cannot_tell_says_so_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "shy.py").write_text(
        "from preceptor_clients.sdk import NotJudged\n"
        "def judge(row, response):\n    raise NotJudged('the picture is missing')"
    )

    async with source(f"{tmp_path}/shy.py:judge", workers=1) as service:
        [item] = await judged(service, "anything")

    assert (item.score, item.error) == (None, "the picture is missing")


async def test_an_async_judge_answers_many_at_a_time_and_ends_a_late_one(judge: str) -> None:
    async with source(
        judge.replace(":judge", ":slow"), workers=1, concurrency=8, timeout_s=1.0
    ) as service:
        found = await items_or_problems(service, "right", "hang", "wrong", *["right"] * 4)

    scores = [getattr(item, "score", None) for item in found]
    assert scores == [1.0, None, 0.0, 1.0, 1.0, 1.0, 1.0]
    assert "took longer than 1 s" in str(found[1])


async def test_an_async_judge_that_blocks_its_process_costs_the_others_nothing(judge: str) -> None:
    slow = judge.replace(":judge", ":slow")
    async with source(slow, workers=1, concurrency=4, timeout_s=2.0) as service:
        found = await items_or_problems(service, "stuck", "right", "wrong")

    assert "took longer than 2 s" in str(found[0])
    assert [getattr(item, "score", None) for item in found] == [None, 1.0, 0.0]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("judge.py:judge", "there is no such file"),
        ("exat", "did you mean `exact`?"),
        ("json:loud", "cannot be imported"),
        ("json:JSONDecoder.x", "cannot be imported"),
    ],
)
async def test_a_function_that_is_not_there_is_refused_at_the_start(
    function: str, said: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        await Function(function=function).start()


async def test_a_row_has_to_be_an_object(judge: str) -> None:
    async with source(judge, workers=1) as service:
        [answer] = await service.feedback([query("true", row=[1])])

    assert isinstance(answer, Exception)
    assert "is not a row" in str(answer)


async def test_long_integers_and_line_separators_of_a_row_reach_the_judge(tmp_path: Path) -> None:
    (tmp_path / "same.py").write_text(
        "def same(row, response):\n    return response == row['text']"
    )
    row = {"text": "a\u2028b\n\x85c", "number": 10**5000}
    async with source(f"{tmp_path}/same.py:same", workers=1) as service:
        [answer] = await service.feedback([query(row["text"], row)])

    assert not isinstance(answer, Exception)
    assert answer.items[0].score == 1.0, json.dumps(answer.items[0].error)
