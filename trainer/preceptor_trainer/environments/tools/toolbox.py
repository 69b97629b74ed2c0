"""Tools as an environment: it runs the calls of a turn, and ends with a turn that has none.

    Dialogue(environment=Toolbox(tools=(LookupTable(file=Path("capitals.json")),)))

All calls of a turn run at a time. Each output is cut at `max_output` characters. A call of an
unknown tool, with wrong arguments, over the time limit or with an error inside the tool is answered
with what was wrong; only a tool that cannot be reached ends the attempt, without a judgement.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from pydantic import JsonValue

from preceptor_clients.contract.sections import nearest
from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.environments.environment import Chat, Outcome, Reply, Unreachable
from preceptor_trainer.environments.once import Once
from preceptor_trainer.environments.tools.calls import Call, CallForm, calls_in
from preceptor_trainer.environments.tools.tool import (
    OffersTools,
    Tool,
    ToolFailed,
    Tools,
    one_argument,
)
from preceptor_trainer.tasks.task import Problem

CUT: Final = "... (cut)"


@dataclass(frozen=True, kw_only=True)
class Toolbox:
    """The tools of a run."""

    tools: tuple[OffersTools, ...]
    """In the order in which the student is told of them."""
    calls: CallForm = "hermes"
    """How the student writes a call."""
    max_output: int = 2_000
    """Most characters of one output; the rest is left out."""
    max_calls: int = 8
    """Most calls of one turn; further ones are answered with this limit."""

    def __post_init__(self) -> None:
        if not self.tools:
            raise ValueError("tools: is empty")
        if self.max_output < len(CUT) + 1 or self.max_calls < 1:
            raise ValueError(f"max_output: must be above {len(CUT)}, and max_calls above 0")

    async def described(self) -> list[Tool]:
        """The tools, which are started for it and ended again.

        Raises:
            Unreachable: one cannot be started.
        """
        running = RunningToolbox(self, [offer.tools(None, "") for offer in self.tools])
        try:
            return list(await running.start())
        finally:
            await running.close()

    def connect(self, gateway: GatewayClient, run: str) -> RunningToolbox:
        """The tools of one run."""
        return RunningToolbox(self, [offer.tools(gateway, run) for offer in self.tools])


class RunningToolbox:
    """Tools, started with the first session."""

    def __init__(self, config: Toolbox, parts: Sequence[Tools]) -> None:
        self.config = config
        self._parts = parts
        self.start = Once(self._start)
        self.known: dict[str, tuple[Tool, Tools]] = {}

    @property
    def max_sessions(self) -> int | None:
        """Sessions hold nothing."""
        return None

    async def open(self, problem: Problem, episode_id: str) -> ToolSession:
        """A session."""
        del problem
        await self.start()
        return ToolSession(self, episode_id)

    async def _start(self) -> Sequence[Tool]:
        """Starts the tools.

        Raises:
            Unreachable: one cannot be started, or two have one name.
        """
        found: dict[str, tuple[Tool, Tools]] = {}
        for part in self._parts:
            for tool in await part.start():
                if tool.name in found:
                    raise Unreachable(f"two tools have the name {tool.name!r}")
                found[tool.name] = tool, part
        self.known = found
        return [tool for tool, _ in found.values()]

    async def close(self) -> None:
        """Ends the tools."""
        await self.start.stop()
        for part in self._parts:
            with contextlib.suppress(Exception):  # the run's own end must not fail because of one
                await part.close()


@dataclass(kw_only=True)
class _Made:
    """One call that was made, for the record."""

    tool: str
    version: str
    seconds: float = 0.0
    error: str | None = None


@dataclass(eq=False)
class ToolSession:
    """One attempt with tools."""

    box: RunningToolbox
    episode_id: str
    made: list[_Made] = field(default_factory=list[_Made])

    @property
    def opening(self) -> Chat:
        """Nothing: the problem's chat is the prompt."""
        return ()

    @property
    def opening_is_chat(self) -> bool:
        """The problem's chat stays."""
        return False

    async def reply(self, text: str, *, is_last: bool) -> Reply:
        """The outputs of the turn's calls, in their order; calls of the last turn are not run."""
        config = self.box.config
        if is_last and config.calls == "turn":  # a whole turn is a call unless it is the last one
            return Reply()
        calls = calls_in(text, config.calls, list(self.box.known))
        if is_last:
            return Reply(is_cut=bool(calls))
        first = len(self.made)
        self.made += [_Made(tool=call.name, version="") for call in calls]
        outputs = await asyncio.gather(
            *(self._answer(call, first, number) for number, call in enumerate(calls))
        )
        return Reply(messages=tuple(outputs))

    async def cut(self, text: str) -> None:
        """Calls of a turn that was cut are not run."""

    def outcome(self) -> Outcome:
        """The calls; tools give no reward."""
        calls = cast("list[JsonValue]", [vars(made) for made in self.made])
        return Outcome(details={"calls": calls})

    async def close(self) -> None:
        """Tools belong to the run."""

    async def _answer(self, call: Call, first: int, number: int) -> dict[str, str]:
        made, began = self.made[first + number], time.monotonic()
        try:
            output = await self._run(call, first, number)
        except ToolFailed as error:
            made.error = str(error)
            output = f"error: {error}"
        if call.name in self.box.known:
            made.version = self.box.known[call.name][1].version
        made.seconds = round(time.monotonic() - began, 4)
        return {"role": "tool", "name": call.name, "content": _capped(output, self.box.config)}

    async def _run(self, call: Call, first: int, number: int) -> str:
        if number >= self.box.config.max_calls:
            raise ToolFailed(f"one turn may have {self.box.config.max_calls} calls")
        if call.problem is not None:
            raise ToolFailed(call.problem)
        known = self.box.known
        if call.name not in known:
            raise ToolFailed(f"there is no tool {call.name!r}; {nearest(call.name, list(known))}")
        tool, part = known[call.name]
        arguments = call.arguments if call.text is None else {one_argument(tool): call.text}
        call_id = f"{self.episode_id}-call-{first + number}"
        return await part.call(tool.name, arguments, call_id)


def _capped(output: str, config: Toolbox) -> str:
    if len(output) <= config.max_output:
        return output
    return output[: config.max_output - len(CUT)] + CUT
