"""Python as a tool: the executor runs what the student writes, and says what came of it.

The executor is a feedback source at the gateway, so that a call has the sandbox, the time limits
and the retries of every attempt that it judges. A call is its own attempt at a task without an
expected value, under an id of its own, and is recorded like one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

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

_TASK: Final = json.dumps(
    {"language": "python", "mode": "expression", "shown": [{"input": None, "expected": None}]}
).encode()
_PAYLOAD: Final = hashlib.sha256(_TASK).hexdigest()
_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"code": {"type": "string", "description": "One Python expression."}},
    "required": ["code"],
}


@dataclass(frozen=True, kw_only=True)
class PythonTool:
    """Python, run by an executor."""

    source: str = "executor"
    """The executor, by its name at the gateway."""
    name: str = "python"
    """The tool's name."""
    description: str = "Evaluates one Python expression and gives its value."
    """What the student is told."""
    timeout_s: float = 60.0
    """Longest wait for the executor, which has its own limits for the code."""

    def tools(self, gateway: GatewayClient | None, run: str) -> _Python:
        """The tool of one run."""
        return _Python(self, gateway, run)


class _Python:
    def __init__(self, config: PythonTool, gateway: GatewayClient | None, run: str) -> None:
        self._config, self._gateway, self._run = config, gateway, run
        self._has_task = False
        self.version = ""

    async def start(self) -> Sequence[Tool]:
        config = self._config
        return [Tool(name=config.name, description=config.description, parameters=_SCHEMA)]

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
            response_text=code,
            finish_reason="stop",
            payload_sha256=_PAYLOAD,
            timeout_ms=int(config.timeout_s * 1000),
        )
        submission = FeedbackSubmission(
            idempotency_key=f"{self._run}/{call_id}/{config.source}", query=query
        )
        try:
            async with asyncio.timeout(config.timeout_s * 2):
                if not self._has_task:
                    await gateway.put_blob(_TASK)
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


def _output(item: FeedbackItem) -> str:
    """The value of the expression, or what went wrong."""
    if "program_error" in item.details:
        raise ToolFailed(str(item.details["program_error"]))
    cases = cast("list[dict[str, Any]]", item.details.get("cases") or [{}])
    case = cases[0]
    if case.get("error"):
        raise ToolFailed(str(case["error"]))
    if "got" not in case:
        raise ToolFailed(str(case.get("outcome", "no value came")))
    return str(case["got"])
