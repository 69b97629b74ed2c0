"""Tools of a run's file: what becomes of each, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from preceptor_trainer.environments.env_server.env_server import EnvServer
from preceptor_trainer.environments.openenv.openenv import OpenEnv
from preceptor_trainer.environments.tools.lookup import LookupTable
from preceptor_trainer.environments.tools.python import PythonTool
from preceptor_trainer.environments.tools.toolbox import Toolbox

from .conftest import FILE, BuildFile

TOOLS = """
[[tools]]
use = "table.json"
name = "capital"
description = "The capital of a country."
[[tools]]
use = "executor"
[rollout]
calls = "fence"
max_turns = 3
max_output = 100
"""


@pytest.fixture
def with_table(folder: Path) -> Path:
    (folder / "table.json").write_text(json.dumps({"France": "Paris"}))
    return folder


def test_tools_become_a_dialogue_and_their_executor_is_started(
    build_file: BuildFile, with_table: Path
) -> None:
    built = build_file(text=FILE + TOOLS)

    dialogue = built.config.dialogue
    assert dialogue is not None
    assert (dialogue.max_turns, dialogue.reply_role) == (3, "user")
    assert isinstance(dialogue.environment, Toolbox)
    table, python = dialogue.environment.tools
    told = "The capital of a country."
    assert table == LookupTable(file=with_table / "table.json", name="capital", description=told)
    assert python == PythonTool(timeout_s=10.0)
    assert (dialogue.environment.calls, dialogue.environment.max_output) == ("fence", 100)
    assert set(built.deployment.sources) == {"executor", "judge"}
    assert built.config.task.sources == ("judge",)
    assert built.rows[-1] == "may call   capital, python"
    assert "names no tools" in built.notes[-1]


def test_a_template_that_takes_tools_tells_student_and_teacher_of_them(
    build_file: BuildFile, with_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = AutoTokenizer.from_pretrained(build_file().config.model)
    shown.chat_template = "{{ tools[0].function.name }}" + shown.chat_template
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: shown)

    built = build_file(text=FILE + TOOLS)

    [tool, _] = built.config.chat_template_kwargs["tools"]
    assert tool["function"]["name"] == "capital"
    options = built.deployment.experts["self-teacher"].options
    assert options["chat_template_kwargs"] == built.config.chat_template_kwargs
    assert built.notes == ()


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ('[[tools]]\nuse = "no.json"', "no.json: there is no such file"),
        ('[[tools]]\nuse = "judge.py:judeg"', "defines no function 'judeg'"),
        ('[[tools]]\nuse = "lookup"', "is neither FILE.py:NAME, nor FILE.json, nor 'executor'"),
        ('[[tools]]\nuse = "executor"\nurl = "http://x"', "a tool has one of"),
        ('[[tools]]\nurl = "http://x"\nname = "x"', "an MCP server names and describes its tools"),
        (
            '[[tools]]\nuse = "table.json"\n[[tools]]\nuse = "table.json"',
            "two tools have the name 'lookup'",
        ),
        (
            '[[tools]]\nuse = "table.json"\n[[tools]]\nuse = "executor"\n[rollout]\ncalls = "turn"',
            "`turn` is for one tool, not for 2",
        ),
    ],
)
def test_a_tool_that_cannot_be_is_refused(
    build_file: BuildFile, with_table: Path, tools: str, said: str
) -> None:
    with pytest.raises(ValueError, match=r"tools|use|name|calls") as refused:
        build_file(text=FILE + tools)

    assert said in str(refused.value)


def test_an_environment_judges_its_attempts_itself(build_file: BuildFile, folder: Path) -> None:
    text = FILE.replace('[feedback]\nuse = "judge.py:judge"', "")
    built = build_file(
        text=f'{text}[environment]\nurl = "http://x:1"\nactions = "field"\naction_field = "a"\n'
        "[rollout]\nmax_turns = 4\n"
    )

    dialogue = built.config.dialogue
    assert dialogue is not None
    assert dialogue.environment == OpenEnv(
        url="http://x:1", actions="field", action_field="a", max_output=2000
    )
    assert dialogue.max_turns == 4
    assert set(built.deployment.sources) == {"environment"}
    assert built.config.task.sources == ("environment",)
    assert built.rows[-1] == "acts in    http://x:1"


def test_an_environment_of_verifiers_gets_what_the_file_says(build_file: BuildFile) -> None:
    built = build_file(
        text=f'{FILE}[environment]\nurl = "tcp://x:1"\nuse = "verifiers"\nlisten = "h:5"\n'
        "sessions = 3\n"
    )

    dialogue = built.config.dialogue
    assert dialogue is not None
    assert dialogue.environment == EnvServer(
        url="tcp://x:1", listen="h:5", sessions=3, max_output=2000
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('[environment]\nurl = "http://x"\nactions = "field"', "action_field"),
        ('[environment]\nurl = "http://x"\n[[tools]]\nuse = "executor"', "not together with"),
        (
            '[environment]\nurl = "tcp://x:1"\nuse = "verifiers"\nactions = "json"',
            "actions: has no",
        ),
        ('[environment]\nurl = "http://x"\nlisten = "x:1"', "listen: has no"),
        ('[environment]\nurl = "http://x"\nuse = "verifiers"', "no address like tcp://"),
    ],
)
def test_an_environment_that_cannot_be_is_refused(
    build_file: BuildFile, more: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        build_file(text=FILE + more)
