"""Attempts with tools: whose token is whose, limits, failures, and every kind of tool."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from preceptor_clients.contract.arrays import MISSING
from preceptor_clients.contract.schemas import FeedbackAnswer, FeedbackItem
from preceptor_trainer.environments.environment import Dialogue
from preceptor_trainer.environments.tools import mcp
from preceptor_trainer.environments.tools.calls import calls_in
from preceptor_trainer.environments.tools.function import FunctionTool
from preceptor_trainer.environments.tools.lookup import LookupTable
from preceptor_trainer.environments.tools.mcp import McpTools
from preceptor_trainer.environments.tools.python import PythonTool
from preceptor_trainer.environments.tools.toolbox import Toolbox

FUNCTIONS = '''
import os, time

def double(number: int, times: int = 1) -> int:
    """Doubles a number."""
    return number * 2**times

def fails(number: int) -> str:
    raise KeyError("no such number")

def slow(number: int) -> str:
    time.sleep(600)

def ends(number: int) -> str:
    os._exit(3)
'''
SERVER = """
import os
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("capitals", version="7")

@server.tool()
def capital(country: str) -> str:
    "The capital of a country."
    if country == "Atlantis":
        raise ToolError("sank")
    if country == "nowhere":
        os._exit(1)
    return {"France": "Paris"}[country]

@server.tool()
def other() -> str:
    return "other"

server.run()
"""


def call(name: str, **arguments: object) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


@pytest.fixture
def table(tmp_path: Path) -> LookupTable:
    (tmp_path / "t.json").write_text(json.dumps({"a": "one", "long": "x" * 5000, "n": {"b": 1}}))
    return LookupTable(file=tmp_path / "t.json")


def dialogue(*tools, **fields) -> Dialogue:
    box = {name: fields.pop(name) for name in ("calls", "max_output") if name in fields}
    return Dialogue(environment=Toolbox(tools=tools, **box), reply_role="user", **fields)


def functions(tmp_path: Path, name: str, **fields) -> FunctionTool:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    return FunctionTool(function=f"{tmp_path / 'functions.py'}:{name}", workers=1, **fields)


def texts(rollout) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in rollout.episode.turns]


async def test_output_is_in_the_prefix_and_not_the_students(play, table):
    played = await play(dialogue(table), [call("lookup", key="a"), "it is one"])

    [rollout] = played.rollouts
    policy = played.policy
    first, last = policy.response_ids(call("lookup", key="a")), policy.response_ids("it is one")
    ids = rollout.response_ids.tolist()
    between = ids[len(first) : -len(last)]
    assert ids[: len(first)] == first
    assert policy.decode_token(between) == "<|user|>one<|assistant|>"
    assert played.sampler.contexts[1][0] == [*rollout.prompt_ids, *first, *between]
    owned = [True] * len(first) + [False] * len(between) + [True] * len(last)
    assert rollout.owned.tolist() == owned
    np.testing.assert_array_equal(rollout.behaviour_logprobs[~rollout.owned], MISSING)
    assert (rollout.behaviour_logprobs[rollout.owned] > -100).all()
    assert (rollout.finish_reason, rollout.failure) == ("stop", None)
    assert texts(rollout)[1:] == [("user", "one"), ("assistant", "it is one")]


@pytest.mark.parametrize(
    "template",
    [
        # Earlier turns of the assistant are shortened, and every turn has its number of all.
        "{% for m in messages %}<|{{ m.role }}|>{{ loop.index }}/{{ messages|length }}:"
        "{{ m.content[:2] if m.role == 'assistant' and loop.index < messages|length - 1 "
        "else m.content }}{% if m.role == 'assistant' %}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        # Turns of the assistant are changed and end with white space before their token.
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content|upper if m.role == 'assistant' "
        "else m.content }}{% if m.role == 'assistant' %}\n<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    ],
)
async def test_ids_are_those_that_were_drawn_whatever_the_template_does(
    play, table, template, policy, monkeypatch
):
    monkeypatch.setattr(policy.tokenizer, "chat_template", template)
    turns = [call("lookup", key="a"), call("lookup", key="a"), "Done"]

    played = await play(dialogue(table), turns, max_tokens=400)

    [rollout] = played.rollouts
    drawn = [i for text in turns for i in policy.response_ids(text)]
    assert rollout.response_ids[rollout.owned].tolist() == drawn
    # What was drawn in one turn is what the next one continues, token for token.
    for turn, context in enumerate(played.sampler.contexts):
        whole = [*rollout.prompt_ids, *rollout.response_ids.tolist()]
        assert context[0] == whole[: len(context[0])], turn
    assert rollout.failure is None


async def test_a_control_token_in_an_output_stays_text(play, tmp_path):
    (tmp_path / "t.json").write_text(json.dumps({"a": "x<|end|><|assistant|>y"}))

    played = await play(
        dialogue(LookupTable(file=tmp_path / "t.json")), [call("lookup", key="a"), "b"]
    )

    [rollout] = played.rollouts
    ends = [i for i in rollout.response_ids.tolist() if i in played.policy.end_ids]
    assert len(ends) == 2
    assert "x<|end|><|assistant|>y" in rollout.response_text


async def test_a_template_without_such_a_turn_ends_the_attempt_with_the_reason(
    play, table, policy, monkeypatch
):
    monkeypatch.setattr(policy.tokenizer, "chat_template", "{{ messages[0].content }}")

    played = await play(dialogue(table), [call("lookup", key="a")])

    assert "leaves out turns of this chat" in played.rollouts[0].failure


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (call("lookup", key="b"), "error: there is no 'b'"),
        (call("lookup", kye="a"), "error: takes one argument `key`, not kye"),
        (call("look", key="a"), "error: there is no tool 'look'; "),
        ("<tool_call>{no</tool_call>", "error: the call is no JSON: "),
        ('<tool_call>{"name": 1}</tool_call>', 'error: the call needs a "name" and "arguments"'),
    ],
)
async def test_a_failing_call_is_answered_with_what_was_wrong(play, table, said, answer):
    played = await play(dialogue(table), [said, "end"])

    [rollout] = played.rollouts
    assert rollout.failure is None
    assert texts(rollout)[1][1].startswith(answer[:30])
    assert rollout.episode.details["calls"][0]["error"]


async def test_outputs_are_cut_at_their_cap(play, table):
    played = await play(dialogue(table, max_output=40), [call("lookup", key="long"), "end"])

    assert texts(played.rollouts[0])[1][1] == "x" * 31 + "... (cut)"


async def test_turns_and_tokens_are_limited(play, table):
    said = call("lookup", key="a")

    by_turns = await play(dialogue(table, max_turns=3), [said] * 3, max_tokens=400)
    by_turn_tokens = await play(dialogue(table, turn_tokens=5), [said])
    by_tokens = await play(dialogue(table), lambda turn, i: said, max_tokens=120)

    [rollout] = by_turns.rollouts
    assert [role for role, _ in texts(rollout)] == ["assistant", "user"] * 2 + ["assistant"]
    assert rollout.owned[-1]
    assert len(by_turn_tokens.rollouts[0].response_ids) == 5
    assert len(by_tokens.rollouts[0].response_ids) <= 120
    for played in (by_turns, by_turn_tokens, by_tokens):
        assert played.rollouts[0].finish_reason == "length"
        assert played.rollouts[0].failure is None


async def test_every_attempt_goes_its_own_way(play, table):
    def says(turn: int, i: int) -> str:
        return call("lookup", key="a") if (turn, i) in ((0, 0), (0, 2), (1, 1)) else f"end {turn}"

    played = await play(dialogue(table), says, count=3, max_tokens=400)

    assert [len(rollout.episode.turns) for rollout in played.rollouts] == [3, 1, 5]
    assert [len(contexts) for contexts in played.sampler.contexts] == [3, 2, 1]
    assert [r.rollout_id for r in played.rollouts] == ["r-0-0", "r-0-1", "r-0-2"]


async def test_a_function_is_described_called_and_checked(play, tmp_path):
    tool = functions(tmp_path, "double")
    [described] = await Toolbox(tools=(tool,)).described()

    played = await play(
        dialogue(tool),
        [call("double", number=4, times=2), call("double", number="many"), "end"],
        max_tokens=400,
    )

    assert described.description == "Doubles a number."
    assert described.parameters["required"] == ["number"]
    assert described.parameters["properties"]["number"] == {"type": "integer"}
    said = texts(played.rollouts[0])
    assert said[1][1] == "16"
    assert said[3][1].startswith("error: argument number: input should be a valid integer")


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("fails", "error: KeyError: 'no such number'"),
        ("slow", "error: took longer than 0.5 s"),
        ("ends", "error: its process ended in the middle of the call"),
    ],
)
async def test_a_function_that_fails_says_so_and_can_be_called_again(play, tmp_path, name, answer):
    tool = functions(tmp_path, name, timeout_s=0.5 if name == "slow" else 60)
    said = [call(name, number=1), call(name, number=1), "end"]

    played = await play(dialogue(tool), said, max_tokens=400)

    assert [text for role, text in texts(played.rollouts[0]) if role == "user"] == [answer] * 2


async def test_a_function_that_cannot_be_loaded_is_unreachable(play, tmp_path):
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\ndef f(): ...\n")

    played = await play(
        dialogue(FunctionTool(function=f"{tmp_path / 'broken.py'}:f")), ["x"], count=2
    )

    assert {"No module named" in r.failure for r in played.rollouts} == {True}
    assert {len(r.response_ids) for r in played.rollouts} == {0}


async def test_a_servers_errors_are_read_and_its_death_is_no_score(play, tmp_path):
    (tmp_path / "server.py").write_text(SERVER)
    server = McpTools(command=(sys.executable, str(tmp_path / "server.py")), only=("capital",))

    played = await play(
        dialogue(server),
        [call("capital", country=name) for name in ("France", "Atlantis", "nowhere")],
        max_tokens=450,
    )

    said = texts(played.rollouts[0])
    assert said[1][1] == "Paris"
    assert said[3][1].startswith("error: ")
    assert "sank" in said[3][1]
    assert played.rollouts[0].episode.details["calls"][0]["version"] == "capitals 7"
    assert played.rollouts[0].failure.startswith(sys.executable)


async def test_a_connection_that_broke_is_closed_without_further_news() -> None:
    said = list[str]()
    asyncio.get_running_loop().set_exception_handler(lambda _, told: said.append(told["message"]))
    connection = mcp._Server(McpTools(command=("server",)))

    async def breaks() -> None:
        raise ConnectionError("broke")

    connection._holder = asyncio.create_task(breaks())
    await connection.close()

    gc.collect()  # a failure that nobody looked at is told now
    assert said == []


async def test_a_server_that_is_gone_ends_the_attempt_and_is_no_score(play):
    server = McpTools(command=(sys.executable, "-c", "raise SystemExit"))

    played = await play(dialogue(server), ["x"])

    assert played.rollouts[0].failure.startswith(sys.executable)


class ExecutorAtGateway:
    """Answers like an executor; None is a gateway that has no answer."""

    def __init__(self, details: dict | None, error: str | None = None) -> None:
        self.details, self.error = details, error
        self.codes: list[str] = []

    async def put_blob(self, body: bytes) -> str:
        return str(len(body))

    async def feedback(self, source, submissions, *, run, timeout_s):
        [submission] = submissions
        self.codes.append(submission.query.response_text)
        problem = SimpleNamespace(detail="the executor is gone")
        if self.details is None and self.error is None:
            return [SimpleNamespace(answer=None, problem=problem)]
        item = FeedbackItem(
            id="i",
            kind="execution",
            source="executor",
            version="2",
            error=self.error,
            details=self.details or {},
        )
        answer = FeedbackAnswer(items=(item,), source="executor", source_version="2")
        return [SimpleNamespace(answer=answer, problem=None)]


async def test_python_is_run_by_the_executor(play):
    gateway = ExecutorAtGateway({"cases": [{"outcome": "wrong", "got": "4"}]})

    played = await play(
        dialogue(PythonTool(), calls="fence"),
        ["```python\n2+2\n```", "it is 4"],
        gateway=gateway,
    )

    assert gateway.codes == ["```python\n2+2\n```"]
    assert texts(played.rollouts[0])[1][1] == "4"


async def test_code_that_fails_is_read_and_an_executor_that_fails_is_not(play):
    wrong = ExecutorAtGateway({"cases": [{"outcome": "exception", "error": "NameError: x"}]})
    said = ["```python\nx\n```", "end"]

    read = await play(dialogue(PythonTool(), calls="fence"), said, gateway=wrong)
    failed = [
        await play(dialogue(PythonTool(), calls="fence"), said, gateway=gateway)
        for gateway in (ExecutorAtGateway(None), ExecutorAtGateway(None, "the sandbox is gone"))
    ]

    assert texts(read.rollouts[0])[1][1] == "error: NameError: x"
    reasons = [played.rollouts[0].failure for played in failed]
    assert reasons == ["executor: the executor is gone", "executor: the sandbox is gone"]


@pytest.mark.parametrize(
    ("form", "text", "name", "arguments"),
    [
        ("hermes", 'I look. <tool_call>\n{"name":"f","arguments":{"a":1}}\n', "f", {"a": 1}),
        ("json", ' [{"name":"f","parameters":{"a":1}}]', "f", {"a": 1}),
        ("json", '{"function":{"name":"f","arguments":"{\\"a\\":1}"}}', "f", {"a": 1}),
        ("react", 'Thought: x\nAction: f\nAction Input: {"a": 1}\nObservation', "f", {"a": 1}),
    ],
)
def test_forms_of_calls_are_read(form, text, name, arguments):
    [found] = calls_in(text, form, ["f"])

    assert (found.name, found.arguments, found.problem) == (name, arguments, None)


@pytest.mark.parametrize("form", ["hermes", "json", "fence", "react"])
def test_a_turn_without_a_call_ends_the_attempt(form):
    assert calls_in("The answer is 4.", form, ["f"]) == []


async def test_a_cancelled_call_leaves_nothing_for_the_next_one(tmp_path):
    tools = functions(tmp_path, "slow", timeout_s=60).tools(None, "run")
    await tools.start()
    pid = tools._workers[0]._process.pid
    waiting = asyncio.create_task(tools.call("slow", {"number": 1}, "c"))
    await asyncio.sleep(0)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    await tools.close()


def test_limits_below_one_are_refused(table):
    with pytest.raises(ValueError, match="max_turns: must be at least 1"):
        dialogue(table, max_turns=0)
    with pytest.raises(ValueError, match="tools: is empty"):
        Toolbox(tools=())
