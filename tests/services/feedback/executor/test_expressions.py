"""Claims about the executor's verdicts, with real processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from tests.services.feedback.executor.boxes import Wrapped

from preceptor_clients.contract import wire
from preceptor_clients.contract.checks import check_feedback
from preceptor_clients.contract.errors import Invalid, ServiceFailed, ServiceUnavailable
from preceptor_clients.contract.execution import feedback_text
from preceptor_clients.contract.schemas import (
    FeedbackCall,
    FeedbackItem,
    FeedbackQuery,
    FeedbackReply,
)
from preceptor_clients.sdk.service import service_app
from preceptor_services.feedback.executor import Executor
from preceptor_services.feedback.executor.config import ExecutorConfig
from preceptor_services.feedback.executor.expressions import CUT_OFF, EMPTY
from preceptor_services.sandbox.isolation import IsolationFailed, Limits, Outcome, ProgramRun
from preceptor_trainer.tasks.programming_by_example.problems import evaluate, sample_problems

MakeQuery = Callable[..., FeedbackQuery]
EXPECTED_ONLY = {"shown": [{"input": [1], "expected": 1}], "hidden": []}


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    service = Executor(workers=2, cpu_seconds=0.2, timeout_s=60.0)
    asyncio.run(service.start())
    assert service.ready()
    yield service
    asyncio.run(service.stop())


async def graded(executor: Executor, query: FeedbackQuery) -> FeedbackItem:
    [answer] = await executor.feedback([query])
    assert not isinstance(answer, Exception), answer
    check_feedback(query, answer)
    [item] = answer.items
    assert item.kind == "execution"
    return item


async def test_a_program_that_passes_every_case_scores_one_and_has_no_text(
    executor: Executor, make_query: MakeQuery
) -> None:
    item = await graded(executor, make_query(" sorted(x)\n"))

    assert (item.score, item.text, item.error) == (1.0, None, None)
    assert item.details["passed"] == 3


async def test_a_wrong_value_scores_zero_and_shows_the_hidden_mismatch(
    executor: Executor, make_query: MakeQuery
) -> None:
    item = await graded(executor, make_query("x[::-1]"))

    assert item.score == 0.0
    assert item.text == "[2,9,2]->[2,2,9] not [2,9,2]"


async def test_passing_the_shown_cases_alone_is_not_enough(
    executor: Executor, make_query: MakeQuery
) -> None:
    item = await graded(executor, make_query("[1,3]"))

    assert item.score == 0.0
    assert item.details["passed"] == 1


@pytest.mark.parametrize(
    ("response", "text"),
    [
        ("x[0]", "[]->[] not IndexError: list index out of range"),
        ("sorted(x", "SyntaxError: '(' was never closed"),
        ("sum(0 for _ in iter(int,1))", "[3,1]->[1,3] not a timeout"),
        ("'a'*10**6", "[3,1]->[1,3] not so much output"),
        ("__import__('os')._exit(0)", "[3,1]->[1,3] not a crash"),
        ("", EMPTY),
        ("  \n", EMPTY),
    ],
)
async def test_a_failure_is_told_in_one_short_text(
    executor: Executor, make_query: MakeQuery, response: str, text: str
) -> None:
    item = await graded(executor, make_query(response))

    assert (item.score, item.text) == (0.0, text)


async def test_a_response_cut_off_at_the_length_limit_has_failed(
    executor: Executor, make_query: MakeQuery
) -> None:
    item = await graded(executor, make_query("sorted(x)", finish_reason="length"))

    assert (item.score, item.text) == (0.0, CUT_OFF)


@pytest.mark.parametrize(
    ("response", "got"),
    [
        ("True", "True"),
        ("1.0", "1.0"),
        ("'1'", "'1'"),
        ("type('I', (int,), {})(1)", "an object that looks like 1"),
        ("type('I', (), {'__eq__': lambda a, b: True, '__repr__': lambda a: '1'})()",
         "an object that looks like 1"),
    ],
)  # fmt: skip
async def test_x3_only_the_exact_value_of_the_exact_type_passes(
    executor: Executor, make_query: MakeQuery, response: str, got: str
) -> None:
    item = await graded(executor, make_query(response, EXPECTED_ONLY))

    assert item.score == 0.0
    assert item.text is not None
    assert got in item.text


@pytest.mark.parametrize(
    "response",
    [
        "print('{\"value\": [1, 3]}') or x",
        "__import__('os').write(3, b'{\"passed\": true}\\n') and __import__('os')._exit(0)",
        "__import__('builtins').__dict__.update(repr=lambda v: '[1, 3]') or x",
        "[j := __import__('json'), setattr(j, 'dumps', lambda *a, **k: '{\"score\": 1}'), x][-1]",
        "__import__('sys').settrace(lambda *a: None) or x",
        "__import__('atexit').register(print) and x",
        "[f.f_locals for f in [__import__('sys')._getframe(1)]] and x",
        "__import__('os')._exit(0)",
        "setattr(__import__('__main__'), '_is_plain', lambda v: True) or type('E', (list,), {})(x)",
    ],
)
async def test_x3_no_trick_is_graded_as_a_pass(
    executor: Executor, make_query: MakeQuery, response: str
) -> None:
    assert (await graded(executor, make_query(response))).score == 0.0
    assert (await graded(executor, make_query("sorted(x)"))).score == 1.0


async def test_x3_expected_values_are_not_in_the_programs_process(
    executor: Executor, make_query: MakeQuery
) -> None:
    task = {"shown": [{"input": [1], "expected": "shown-secret"}],
            "hidden": [{"input": [2], "expected": "hidden-secret"}]}  # fmt: skip
    seen = (
        "str([o for o in __import__('gc').get_objects() if type(o) is dict]).count('-sec' + 'ret')"
    )

    item = await graded(executor, make_query(f"({seen})", task))

    cases: Any = item.details["cases"]
    assert [case["got"] for case in cases] == ["0", "0"]


async def test_every_answer_names_its_isolation_and_limits(
    executor: Executor, make_query: MakeQuery
) -> None:
    isolation: Any = (await graded(executor, make_query("x"))).details["isolation"]

    assert isolation["level"] in ("namespaces", "process")
    assert isolation["network"] in ("namespace", "open")
    assert isolation["limits"]["cpu_seconds"] == 0.2


async def test_the_same_question_has_the_same_answer_and_another_rollout_another_id(
    executor: Executor, make_query: MakeQuery
) -> None:
    queries = [make_query("x"), make_query("x"), make_query("x", rollout_id="r2")]

    first, second, other = await executor.feedback(queries)

    assert wire.render(first) == wire.render(second)  # type: ignore[arg-type]
    assert first.items[0].id != other.items[0].id  # type: ignore[union-attr]


async def test_answers_keep_the_order_of_a_large_call(
    executor: Executor, make_query: MakeQuery
) -> None:
    task = {"shown": [{"input": 1, "expected": 1}]}

    answers = await executor.feedback([make_query(f"[{n}]", task) for n in range(60)])

    texts = [answer.items[0].text for answer in answers]  # type: ignore[union-attr]
    assert texts == [f"1->1 not [{n}]" for n in range(60)]


@pytest.mark.parametrize(
    ("task", "field"),
    [
        (None, "payload"),
        ({"shown": []}, "payload.shown"),
        ({"shown": [{"input": 1}]}, "payload.shown[0].expected"),
        ({"entry": "x y", "shown": []}, "payload.entry"),
        ({"showm": [{"input": 1, "expected": 1}]}, "payload.shown"),
        ([1], "payload"),
    ],
)
async def test_a_task_that_cannot_be_meant_is_refused_and_the_others_go_on(
    executor: Executor, make_query: MakeQuery, task: Any, field: str
) -> None:
    refused, answer = await executor.feedback([make_query("x", task), make_query("sorted(x)")])

    assert isinstance(refused, Invalid)
    assert refused.errors[0].field == field
    assert answer.items[0].score == 1.0  # type: ignore[union-attr]


async def test_other_columns_of_a_row_are_left_alone(
    executor: Executor, make_query: MakeQuery
) -> None:
    row = {"prompt": "sort", "shown": [{"input": [2, 1], "expected": [1, 2]}], "level": "easy"}

    [answer] = await executor.feedback([make_query("sorted(x)", row)])

    assert answer.items[0].score == 1.0  # type: ignore[union-attr]


async def test_its_words_are_those_that_the_student_was_pretrained_on(
    executor: Executor, make_query: MakeQuery
) -> None:
    problem = sample_problems("train", count=1, seed=1)[0]
    programs = ["x", "x[0]", "sum(x)", "sorted(x", "sorted(x)[::-1]", "[v//0 for v in x]", "max(x)"]
    task = problem.task.model_dump(mode="json")

    answers = await executor.feedback([make_query(p, task) for p in programs])

    expected = [feedback_text(evaluate(p, problem)) or None for p in programs]
    assert [a.items[0].text for a in answers] == expected  # type: ignore[union-attr]


async def test_it_serves_the_wire_contract(executor: Executor, make_query: MakeQuery) -> None:
    call = FeedbackCall(queries=(make_query("sorted(x)"),))
    transport = httpx.ASGITransport(service_app(executor, key="k"))

    async with httpx.AsyncClient(transport=transport, base_url="http://source") as client:
        response = await client.post(
            "/v1/feedback",
            content=wire.render(call),
            headers={"Authorization": "Bearer k", "Content-Type": wire.FRAME},
        )
        ready = await client.get("/readyz")

    reply = wire.parse(FeedbackReply, response.content, response.headers["content-type"])
    assert ready.status_code == 200
    assert reply.results[0].answer is not None
    assert reply.results[0].answer.items[0].score == 1.0


class BrokenBox(Wrapped):
    """A box that starts and passes its self-test, and then fails."""

    tests_left = 3

    def run(self, attempt: ProgramRun, limits: Limits) -> Outcome:
        self.tests_left -= 1
        if self.tests_left < 0:
            raise IsolationFailed("no process could be had")
        return super().run(attempt, limits)


async def test_a_box_that_fails_is_a_problem_and_never_a_score(make_query: MakeQuery) -> None:
    executor = Executor(make_sandbox=BrokenBox, workers=1)
    await executor.start()

    [answer] = await executor.feedback([make_query("sorted(x)")])
    await executor.stop()

    # An item would be the answer to every later question with this text.
    assert isinstance(answer, ServiceFailed)
    assert answer.detail == "no process could be had"


class LenientBox(Wrapped):
    """A box that stops nothing, and calls an endless program finished."""

    def run(self, attempt: ProgramRun, limits: Limits) -> Outcome:
        outcome = super().run(attempt, limits)
        return Outcome(results=outcome.results, ended="finished")


async def test_a_failed_self_test_keeps_it_from_being_ready(make_query: MakeQuery) -> None:
    executor = Executor(make_sandbox=LenientBox, workers=1)
    await executor.start()

    assert not executor.ready()
    with pytest.raises(ServiceUnavailable, match="self-test"):
        await executor.feedback([make_query("x")])

    await executor.stop()


@pytest.mark.parametrize(
    ("field", "value"), [("workers", 0), ("workers", 99), ("cpu_seconds", -1), ("max_batch", 0)]
)
def test_a_wrong_option_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        ExecutorConfig(**{field: value})


def test_limits_are_part_of_the_version() -> None:
    versions = {Executor(**o).info().version for o in ({}, {"cpu_seconds": 2.0}, {"workers": 3})}

    assert len(versions) == 2
