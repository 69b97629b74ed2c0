"""The tools of a file, or its environment: who answers the student within an attempt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from transformers import AutoTokenizer

from preceptor_clients.contract.deployment import DeployedService, local_service
from preceptor_clients.sdk.judging import check_judge
from preceptor_trainer.deployment.local import EXECUTOR_CLASS
from preceptor_trainer.environments.env_server.env_server import EnvServer
from preceptor_trainer.environments.env_server.wire import library as library_of_messages
from preceptor_trainer.environments.environment import Connects, Dialogue, Unreachable
from preceptor_trainer.environments.openenv.openenv import OpenEnv
from preceptor_trainer.environments.openenv.socket import library as library_of_sockets
from preceptor_trainer.environments.tools.function import FunctionTool
from preceptor_trainer.environments.tools.lookup import LookupTable, read_table
from preceptor_trainer.environments.tools.mcp import McpTools, library
from preceptor_trainer.environments.tools.python import PythonTool
from preceptor_trainer.environments.tools.tool import OffersTools, Tool
from preceptor_trainer.environments.tools.toolbox import Toolbox
from preceptor_trainer.kit.waiting import wait_for
from preceptor_trainer.runfile.schema import (
    EXECUTOR_USE,
    EnvironmentSection,
    RolloutSection,
    RunFile,
    ToolSection,
)

_VARIABLE: Final = "tools"
"""Name of the chat template's variable with the tools."""


@dataclass(frozen=True, kw_only=True)
class FileTools:
    """The tools of a file."""

    dialogue: Dialogue | None
    services: Mapping[str, DeployedService]
    """Sources that run calls."""
    variables: Mapping[str, Any]
    """Further variables of the chat template, which tell the student of the tools."""
    note: str | None = None
    """What the user has to know."""
    row: str | None = None
    """The tools in words."""


NO_TOOLS: Final = FileTools(dialogue=None, services={}, variables={})


def make_tools(run_file: RunFile, model: Path, folder: Path) -> FileTools:
    """The tools that a file names.

    Args:
        run_file: The whole file.
        model: Folder of the student.
        folder: What relative paths are relative to.

    Raises:
        ValueError: a tool does not exist, or cannot be started.
    """
    if run_file.environment is not None:
        return _environment(run_file, run_file.environment)
    if not run_file.tools:
        return NO_TOOLS
    rollout = run_file.rollout
    toolbox = Toolbox(
        tools=tuple(_tool(section, folder) for section in run_file.tools),
        calls=rollout.calls,
        max_output=rollout.max_output,
    )
    described = _described(toolbox)
    if rollout.calls == "turn" and len(described) != 1:
        raise ValueError(f"rollout.calls: `turn` is for one tool, not for {len(described)}")
    shipped = run_file.model.path is None
    shows = _shows_tools(model)
    return FileTools(
        dialogue=Dialogue(
            environment=toolbox,
            max_turns=rollout.max_turns,
            turn_tokens=rollout.turn_tokens,
            # The shipped student has no token for a tool's turn.
            reply_role=rollout.reply_role or ("user" if shipped else None),
            max_failed=rollout.max_failed,
        ),
        services=_executors(run_file),
        variables={_VARIABLE: [tool.described() for tool in described]} if shows else {},
        note=None if shows else _note(described),
        row=f"may call   {', '.join(tool.name for tool in described)}",
    )


def _environment(run_file: RunFile, section: EnvironmentSection) -> FileTools:
    if run_file.tools:
        raise ValueError("environment: not together with [[tools]]; an environment has its own")
    rollout = run_file.rollout
    make = _verifiers if section.use == "verifiers" else _openenv
    return FileTools(
        dialogue=Dialogue(
            environment=make(rollout, section),
            max_turns=rollout.max_turns,
            turn_tokens=rollout.turn_tokens,
            max_failed=rollout.max_failed,
        ),
        services={},
        variables={},
        row=f"acts in    {section.url}",
    )


def _openenv(rollout: RolloutSection, section: EnvironmentSection) -> Connects:
    library_of_sockets()
    return OpenEnv(
        url=section.url,
        actions=section.actions,
        action_field=section.action_field,
        action_tool=section.action_tool,
        observation_field=section.observation_field,
        calls=rollout.calls,
        reset=section.reset,
        sessions=section.sessions,
        timeout_s=section.timeout_s,
        wait_s=section.wait_s,
        max_output=rollout.max_output,
    )


def _verifiers(rollout: RolloutSection, section: EnvironmentSection) -> Connects:
    library_of_messages()
    return EnvServer(
        url=section.url,
        listen=section.listen,
        callback=section.callback,
        calls=rollout.calls,
        sessions=section.sessions,
        timeout_s=section.timeout_s,
        wait_s=section.wait_s,
        max_output=rollout.max_output,
    )


def _tool(section: ToolSection, folder: Path) -> OffersTools:
    if section.use is None:
        library()
        return McpTools(
            command=section.command,
            url=section.url,
            only=section.only,
            environment=section.environment,
            timeout_s=section.timeout_s,
        )
    named: dict[str, Any] = {"name": section.name, "description": section.description}
    named = {key: value for key, value in named.items() if value is not None}
    if section.use == EXECUTOR_USE:
        return PythonTool(mode=section.mode, timeout_s=section.timeout_s, **named)
    if section.use.endswith(".json"):
        file = (folder / section.use).resolve()
        if not file.is_file():
            raise ValueError(f"tools.use: {file}: there is no such file")
        read_table(file.read_bytes(), file)
        return LookupTable(file=file, **named)
    return FunctionTool(
        function=_function(section.use, folder),
        timeout_s=section.timeout_s,
        workers=section.workers,
        **named,
    )


def _function(use: str, folder: Path) -> str:
    place, colon, name = use.rpartition(":")
    if not colon:
        raise ValueError(
            f"tools.use: {use!r} is neither FILE.py:NAME, nor FILE.json, nor {EXECUTOR_USE!r}"
        )
    spelled = f"{(folder / place).resolve()}:{name}" if place.endswith(".py") else use
    try:
        check_judge(spelled)
    except ValueError as error:
        raise ValueError(f"tools.use: {error}") from None
    return spelled


def _described(toolbox: Toolbox) -> list[Tool]:
    try:
        return wait_for(toolbox.described())
    except Unreachable as error:
        raise ValueError(f"tools: {error}") from error


def _executors(run_file: RunFile) -> dict[str, DeployedService]:
    """The executor of a tool, unless it judges attempts too."""
    sections = [tool for tool in run_file.tools if tool.use == EXECUTOR_USE]
    judges = EXECUTOR_USE in run_file.feedback.use or EXECUTOR_USE in run_file.feedback.sources
    if not sections or judges:
        return {}
    options: dict[str, Any] = {"name": EXECUTOR_USE, **sections[0].options}
    return {EXECUTOR_USE: local_service(EXECUTOR_USE, EXECUTOR_CLASS, options)}


def _shows_tools(model: Path) -> bool:
    template: Any = cast("Any", AutoTokenizer).from_pretrained(model).chat_template
    return _VARIABLE in str(template)


def _note(described: list[Tool]) -> str:
    names = ", ".join(tool.name for tool in described)
    return f"the chat template names no tools, so the prompt has to tell of {names} (data.system)"
