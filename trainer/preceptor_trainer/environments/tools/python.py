"""Python as a tool: the executor runs what the student writes, and says what came of it.

The executor is a feedback source at the gateway, so that a call has the sandbox, the time limits
and the retries of every attempt that it judges. A call is its own attempt at a task without an
expected value, under an id of its own, and is recorded like one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import numpy as np

from preceptor_clients.contract.errors import PreceptorError
from preceptor_clients.contract.schemas import (
    FeedbackItem,
    FeedbackQuery,
    FeedbackSubmission,
    Message,
    Prompt,
)
from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.environments.environment import Unreachable
from preceptor_trainer.environments.tools.tool import Tool, ToolFailed
from preceptor_trainer.tasks.programming_by_example.task import EXECUTOR

Mode = Literal["program", "expression"]
_TASKS: Final[Mapping[Mode, dict[str, Any]]] = {
    # What is expected is nothing, so that everything that is printed is told.
    "program": {
        "mode": "stdin",
        "shown": [{"input": "", "expected": ""}],
        "record_chars": 1 << 16,
    },
    "expression": {"mode": "expression", "shown": [{"input": None, "expected": None}]},
}
_TOLD: Final[Mapping[Mode, str]] = {
    "program": "Runs a Python program and gives what it prints.",
    "expression": "Evaluates one Python expression and gives its value.",
}
NO_OUTPUT: Final = "(no output)"


@dataclass(frozen=True, kw_only=True)
class PythonTool:
    """Python, run by an executor."""

    source: str = EXECUTOR
    """The executor, by its name at the gateway."""
    mode: Mode = "program"
    """`program` gives what a program prints, `expression` the value of one expression."""
    name: str = "python"
    """The tool's name."""
    description: str | None = None
    """What the student is told; where absent, what the mode does."""
    timeout_s: float = 60.0
    """Longest wait for the executor, which has its own limits for the code."""

    def tools(self, gateway: GatewayClient | None, run: str) -> _Python:
        """The tool of one run."""
        return _Python(self, gateway, run)


class _Python:
    def __init__(self, config: PythonTool, gateway: GatewayClient | None, run: str) -> None:
        self._config, self._gateway, self._run = config, gateway, run
        self._task = json.dumps(_TASKS[config.mode]).encode()
        self._has_task = False
        self.version = ""

    async def start(self) -> Sequence[Tool]:
        config = self._config
        code = {"type": "string", "description": f"A Python {config.mode}."}
        schema = {"type": "object", "properties": {"code": code}, "required": ["code"]}
        told = config.description or _TOLD[config.mode]
        return [Tool(name=config.name, description=told, parameters=schema)]

    async def call(self, name: str, arguments: dict[str, Any], call_id: str) -> str:
        del name
        if list(arguments) != ["code"]:
            raise ToolFailed(f"takes one argument `code`, not {', '.join(arguments) or 'none'}")
        code = str(arguments["code"])
        item = await self._asked(code, call_id)
        self.version = item.version
        return _output(item)

    async def close(self) -> None:
        pass

    async def _asked(self, code: str, call_id: str) -> FeedbackItem:
        config, gateway = self._config, self._gateway
        assert gateway is not None, "described, not connected"
        query = FeedbackQuery(
            rollout_id=call_id,
            prompt=Prompt(messages=(Message(role="user", content="a call of a tool"),)),
            response_ids=np.frombuffer(code.encode() or b" ", np.uint8).astype(np.int32),
            response_text=_fenced(code) if config.mode == "program" else code,
            finish_reason="stop",
            payload_sha256=hashlib.sha256(self._task).hexdigest(),
            timeout_ms=int(config.timeout_s * 1000),
        )
        submission = FeedbackSubmission(
            idempotency_key=f"{self._run}/{call_id}/{config.source}", query=query
        )
        try:
            async with asyncio.timeout(config.timeout_s * 2):
                if not self._has_task:
                    await gateway.put_blob(self._task)
                    self._has_task = True
                [outcome] = await gateway.feedback(
                    config.source, [submission], run=self._run, timeout_s=config.timeout_s
                )
        except (PreceptorError, TimeoutError) as error:
            raise Unreachable(f"{config.source}: {error}") from error
        if outcome.answer is None:
            reason = outcome.problem.detail if outcome.problem is not None else "no answer came"
            raise Unreachable(f"{config.source}: {reason}")
        [item] = outcome.answer.items
        if item.error is not None:
            raise Unreachable(f"{config.source}: {item.error}")
        return item


def _fenced(code: str) -> str:
    """The code as the only block of a response, behind a fence that it does not contain."""
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}python\n{code}\n{fence}"


def _output(item: FeedbackItem) -> str:
    """What came out, or what went wrong."""
    if "program_error" in item.details:
        raise ToolFailed(str(item.details["program_error"]))
    cases = cast("list[dict[str, Any]]", item.details.get("cases") or [])
    if not cases:
        raise ToolFailed(item.text or "it did not run")
    case = cases[0]
    if case.get("error"):
        raise ToolFailed(str(case["error"]))
    outcome = str(case.get("outcome"))
    if outcome not in ("passed", "wrong"):
        raise ToolFailed(f"reached a limit: {outcome}" if outcome != "error" else "it failed")
    return str(case.get("got") or NO_OUTPUT)
