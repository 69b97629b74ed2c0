"""Claims about verdicts and feedback of whole programs, with real processes."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.services.feedback.executor.boxes import Wrapped

from preceptor_clients.contract.checks import check_feedback
from preceptor_clients.contract.errors import DeadlineExceeded, Invalid, ServiceFailed
from preceptor_clients.contract.schemas import FeedbackItem, FeedbackQuery
from preceptor_services.feedback.executor import Executor
from preceptor_services.feedback.executor.failures import CUT_OFF, HIDDEN, NO_PROGRAM
from preceptor_services.feedback.executor.service import OUT_OF_TIME
from preceptor_services.sandbox.command import Command, CommandLimits, Execution
from preceptor_services.sandbox.isolation import IsolationFailed

MakeQuery = Callable[..., FeedbackQuery]
SUM = {
    "mode": "stdin",
    "shown": [{"input": "1 2\n", "expected": "3\n"}],
    "hidden": [{"input": "4 5\n", "expected": "9\n"}],
}
ADD = {
    "mode": "function",
    "entry": "add",
    "shown": [{"input": [1, [2]], "expected": [1, 2]}],
    "hidden": [{"input": [4, []], "expected": [4]}],
}
SHELL = {
    "file": "main.sh",
    "compile": ["/bin/sh", "-c", "grep -q cat main.sh && cp main.sh made || exit 3"],
    "keep": ["made"],
    "run": ["/bin/sh", "made"],
}
C = {
    "file": "main.c",
    "compile": ["gcc", "-o", "main", "main.c"],
    "keep": ["main"],
    "run": ["./main"],
}


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    service = Executor(workers=2, case_cpu_seconds=2.0, languages={"shell": SHELL, "c": C})
    asyncio.run(service.start())
    assert service.ready()
    yield service
    asyncio.run(service.stop())


def fenced(program: str) -> str:
    return f"I would write:\n```python\n{program}\n```\n"


async def graded(executor: Executor, query: FeedbackQuery) -> FeedbackItem:
    [answer] = await executor.feedback([query])
    assert not isinstance(answer, Exception), answer
    check_feedback(query, answer)
    [item] = answer.items
    return item


async def test_a_program_that_passes_every_case_scores_one_and_has_no_text(
    executor: Executor, make_query: MakeQuery
) -> None:
    program = "a, b = map(int, input().split())\nprint(a + b)"

    item = await graded(executor, make_query(fenced(program), SUM))

    assert (item.score, item.text, item.error) == (1.0, None, None)
    assert (item.details["passed"], item.details["num_cases"]) == (2, 2)
    assert item.details["rung"]


@pytest.mark.parametrize(
    "program",
    [
        "def add(a, b): return [a, *b]",
        "class Solution:\n    def add(self, a: int, b: List[int]): return (a, *b)",
        "def add(a, b):\n    print('working')\n    return list(deque([a, *b]))",
    ],
)
async def test_a_function_is_called_with_its_arguments(
    executor: Executor, make_query: MakeQuery, program: str
) -> None:
    assert (await graded(executor, make_query(fenced(program), ADD))).score == 1.0


async def test_the_answer_names_the_limits_of_its_task(
    executor: Executor, make_query: MakeQuery
) -> None:
    task = {**SUM, "time_limit_s": 1.5, "memory_mb": 300}

    isolation: Any = (await graded(executor, make_query(fenced("print(3)"), task))).details[
        "isolation"
    ]

    assert isolation["limits"]["cpu_seconds"] == 1.5
    assert isolation["limits"]["memory_mb"] == 300


@pytest.mark.parametrize(
    "read",
    [
        "open(0).read()",
        "sys.stdin.read()",
        "stdin.readline()",
        "sys.stdin.buffer.readline().decode()",
        "next(iter(sys.stdin))",
        "os.read(0, 99).decode()",
    ],
)
async def test_standard_input_is_read_in_every_way(
    executor: Executor, make_query: MakeQuery, read: str
) -> None:
    program = f"import os\nif __name__ == '__main__':\n    print(sum(map(int, {read}.split())))"

    assert (await graded(executor, make_query(fenced(program), SUM))).score == 1.0


async def test_sys_exit_ends_a_program_like_its_last_line(
    executor: Executor, make_query: MakeQuery
) -> None:
    program = "import sys\nprint(sum(map(int, input().split())))\nsys.exit(1)"

    assert (await graded(executor, make_query(fenced(program), SUM))).score == 1.0


async def test_a_wrong_answer_is_told_with_input_output_and_expected(
    executor: Executor, make_query: MakeQuery
) -> None:
    item = await graded(executor, make_query(fenced("print(12)"), SUM))

    assert item.score == 0.0
    assert item.text == (
        "Test Case 1: Wrong Answer\n\nInput\n1 2\n\nOutput\n12\n\nExpected\n3"
    )  # fmt: skip


async def test_an_error_is_told_with_its_place_and_the_input(
    executor: Executor, make_query: MakeQuery
) -> None:
    program = "def half(n):\n    return n // 0\n\nprint(half(len(input())))"

    item = await graded(executor, make_query(fenced(program), SUM))

    assert item.text == (
        "Runtime Error\n"
        "ZeroDivisionError: integer division or modulo by zero\n"
        "  print(half(len(input())))\n"
        "Line 4 in <module>\n"
        "  return n // 0\n"
        "Line 2 in half\n\n"
        "Last Executed Input\n1 2"
    )


async def test_a_text_and_a_number_look_different_in_the_feedback(
    executor: Executor, make_query: MakeQuery
) -> None:
    task = {"mode": "function", "entry": "f", "shown": [{"input": ["a"], "expected": "1"}]}

    item = await graded(executor, make_query(fenced("def f(s): return 1"), task))

    assert item.text == ('Test Case 1: Wrong Answer\n\nInput\n"a"\n\nOutput\n1\n\nExpected\n"1"')


async def test_a_timeout_is_told_with_the_input(executor: Executor, make_query: MakeQuery) -> None:
    task = {**SUM, "time_limit_s": 0.3}

    item = await graded(executor, make_query(fenced("while True: pass"), task))

    assert item.text == "Time Limit Exceeded\n\nLast Executed Input\n1 2"


async def test_a_function_that_ends_the_process_has_returned_nothing(
    executor: Executor, make_query: MakeQuery
) -> None:
    item = await graded(executor, make_query(fenced("import os\nos._exit(0)"), ADD))

    assert item.text == (
        "Runtime Error\nthe program ended without returning a value\n\n"
        "Last Executed Input\n1\n[2]"
    )  # fmt: skip


async def test_what_a_program_prints_beside_its_answer_is_debug_output(
    executor: Executor, make_query: MakeQuery
) -> None:
    program = "def add(a, b):\n    print('a is', a)\n    return a"

    item = await graded(executor, make_query(fenced(program), ADD))

    assert item.text is not None
    assert item.text.endswith("Output\n1\n\nExpected\n[1, 2]\n\nDebug Output\na is 1")


@pytest.mark.parametrize(
    ("program", "text"),
    [
        ("print(3)", f"Test Case 2: Wrong Answer\n\n{HIDDEN}"),
        ("x = input()\nprint(3 if x[0] == '1' else 1 // 0)",
         f"Runtime Error\nZeroDivisionError\n\n{HIDDEN}"),
        ("x = input()\nif x[0] != '1': raise ValueError(x)\nprint(3)",
         f"Runtime Error\nValueError\n\n{HIDDEN}"),
        ("x = input()\nif x[0] != '1': raise type('E' + x, (Exception,), {})\nprint(3)",
         f"Runtime Error\n\n{HIDDEN}"),
        ("import sys\nx = input()\nprint(x, file=sys.stderr)\nprint(3)",
         f"Test Case 2: Wrong Answer\n\n{HIDDEN}"),
    ],
)  # fmt: skip
async def test_of_a_hidden_case_only_its_failing_is_told(
    executor: Executor, make_query: MakeQuery, program: str, text: str
) -> None:
    item = await graded(executor, make_query(fenced(program), SUM))

    assert (item.score, item.text) == (0.0, text)
    assert "4 5" not in str(item.details)


async def test_a_syntax_error_is_told_also_where_every_case_is_hidden(
    executor: Executor, make_query: MakeQuery
) -> None:
    task = {"mode": "stdin", "hidden": SUM["hidden"]}
    pretended = "raise SyntaxError(input())"

    item = await graded(executor, make_query(fenced("print(1"), task))
    other = await graded(executor, make_query(fenced(pretended), task))

    assert item.text == "Compile Error\nSyntaxError: '(' was never closed\n  print(1\nLine 1"
    assert other.text == f"Runtime Error\nSyntaxError\n\n{HIDDEN}"


async def test_a_response_without_a_program_is_told_the_form_or_that_it_was_cut(
    executor: Executor, make_query: MakeQuery
) -> None:
    plain = await graded(executor, make_query("print(3)", SUM))
    cut = await graded(executor, make_query("```python\nprint(", SUM, finish_reason="length"))

    assert (plain.score, plain.text) == (0.0, NO_PROGRAM.format(language="python"))
    assert (cut.score, cut.text) == (0.0, CUT_OFF)


async def test_a_whole_program_in_a_cut_response_is_judged_and_the_cut_is_told(
    executor: Executor, make_query: MakeQuery
) -> None:
    right = fenced("print(sum(map(int, input().split())))")

    good = await graded(executor, make_query(right + "And", SUM, finish_reason="length"))
    bad = await graded(executor, make_query(fenced("print(0)"), SUM, finish_reason="length"))

    assert good.score == 1.0
    assert bad.text is not None
    assert bad.text.endswith(f"Expected\n3\n\n{CUT_OFF}")


async def test_another_language_is_compiled_once_and_run_by_its_commands(
    executor: Executor, make_query: MakeQuery
) -> None:
    task = {"mode": "stdin", "language": "shell", "shown": [{"input": "a\n", "expected": "a\n"}]}

    good = await graded(executor, make_query("```sh\ncat\n```", task))
    bad = await graded(executor, make_query("```sh\necho\n```", task))

    assert (good.score, good.error) == (1.0, None)
    assert bad.text == "Compile Error\nended with exit code 3"


@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no C compiler")
async def test_a_compiled_program_runs_and_a_crash_is_told_by_its_signal(
    executor: Executor, make_query: MakeQuery
) -> None:
    task = {"mode": "stdin", "language": "c", "shown": [{"input": "41", "expected": "42"}]}
    head = "#include <stdio.h>\n#include <stdlib.h>\nint main() { int a; "
    adds = head + 'scanf("%d", &a); printf("%d", a + 1); }'

    good = await graded(executor, make_query(f"```c\n{adds}\n```", task))
    bad = await graded(executor, make_query(f"```c\n{head} abort(); }}\n```", task))

    assert (good.score, good.error) == (1.0, None)
    assert bad.text == "Runtime Error\nended by SIGABRT\n\nLast Executed Input\n41"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"mode": "stdio"}, "payload.mode"),
        ({"language": "cobol"}, "payload.language"),
        ({"time_limit_s": 99}, "payload.time_limit_s"),
        ({"memory_mb": 999_999}, "payload.memory_mb"),
        ({"mode": "function"}, "payload.entry"),
        ({"shown": [{"input": 1, "expected": "1"}]}, "payload"),
        ({"shown": [], "hidden": []}, "payload.shown"),
        ({"shown": "never packed"}, "payload.shown"),
    ],
)
async def test_a_task_that_this_executor_cannot_judge_is_refused_by_field(
    executor: Executor, make_query: MakeQuery, change: dict[str, Any], field: str
) -> None:
    [refused] = await executor.feedback([make_query("x", SUM | change)])

    assert isinstance(refused, Invalid)
    assert refused.errors[0].field == field


class FailingBox(Wrapped):
    """A box that is gone after its self-test."""

    commands_left = 5

    def execute(self, command: Command, limits: CommandLimits | None = None) -> Execution:
        self.commands_left -= 1
        if self.commands_left < 0:
            raise IsolationFailed("the sandbox is gone")
        return super().execute(command, limits)


async def test_a_sandbox_that_is_gone_is_a_problem_and_never_a_score(make_query: MakeQuery) -> None:
    executor = Executor(make_sandbox=FailingBox, workers=1)
    await executor.start()

    [answer] = await executor.feedback([make_query(fenced("print(3)"), SUM)])
    await executor.stop()

    assert isinstance(answer, ServiceFailed)
    assert answer.detail == "the sandbox is gone"


async def test_a_call_that_takes_longer_than_its_caller_waits_is_an_error_for_the_rest(
    executor: Executor, make_query: MakeQuery
) -> None:
    cases = [{"input": str(i), "expected": "0"} for i in range(1000)]
    task = {"mode": "stdin", "shown": cases}

    queries = [make_query(fenced(f"print({n})"), task, timeout_ms=400) for n in (0, 1)]

    [right] = await executor.feedback(queries[:1])
    wrong = await graded(executor, queries[1])

    assert isinstance(right, DeadlineExceeded)
    assert right.detail == OUT_OF_TIME
    assert (wrong.score, wrong.error) == (0.0, None), "its score is known already"


class BlindBox(Wrapped):
    """A box that loses what programs write."""

    def execute(self, command: Command, limits: CommandLimits | None = None) -> Execution:
        return Execution(ended_by="exit", exit_code=0, rung="blind")


async def test_a_box_that_loses_outputs_does_not_pass_the_self_test(make_query: MakeQuery) -> None:
    executor = Executor(make_sandbox=BlindBox, workers=1)
    await executor.start()
    await executor.stop()

    assert not executor.ready()


@pytest.mark.parametrize("name", ["python", "cpp"])
def test_a_language_that_cannot_be_meant_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=rf"languages\.{name}"):
        Executor(languages={name: {"file": "main.cpp"}})


def test_an_unknown_option_of_the_rung_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean `python`"):
        Executor(rung_options={"pyton": "/usr/bin/python3"})


async def test_a_language_whose_compiler_the_sandbox_does_not_see_is_not_ready() -> None:
    away = {"file": "main.x", "compile": ["no-such-compiler", "main.x"], "run": ["./main"]}
    executor = Executor(workers=1, languages={"x": away})

    await executor.start()
    reason = executor._not_ready
    await executor.stop()

    assert reason == "languages.x: the sandbox does not see the program no-such-compiler"


async def test_the_sandbox_own_interpreter_and_the_source_itself_are_programs_that_it_sees() -> (
    None
):
    languages = {
        "by_python": {"file": "main.x", "run": ["python", "main.x"]},
        "by_itself": {"file": "main.x", "run": ["./main.x"]},
    }
    executor = Executor(workers=1, languages=languages)

    await executor.start()
    reason = executor._not_ready
    await executor.stop()

    assert reason is None
