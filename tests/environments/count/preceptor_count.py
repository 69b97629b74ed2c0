"""A taskset of verifiers for its own server: the shorter the last answer, the higher the score.

Rows with an odd number are played by verifiers' own chat program, in one turn; the others within
the server, in two. Needs the package `verifiers`, which has an environment of its own.
"""

from __future__ import annotations

import sys

import verifiers.v1 as vf
from openai import APIStatusError, AsyncOpenAI
from verifiers.v1.harnesses.null.harness import NullHarness, NullHarnessConfig
from verifiers.v1.harnesses.utils.compaction import is_context_overflow
from verifiers.v1.runtimes import ProgramResult

__all__ = ["CountHarness", "CountTaskset"]


class CountData(vf.TaskData):
    """One row."""

    number: int


class CountTask(vf.Task[CountData]):
    """One attempt's score."""

    @vf.reward(weight=2.0)
    async def brevity(self, trace: vf.Trace) -> float:
        """From 1 for nothing said to 0."""
        return 1 / (1 + len(trace.last_reply))

    @vf.metric
    async def turns(self, trace: vf.Trace) -> float:
        """Turns of the student."""
        return float(trace.num_turns)


class CountHarnessConfig(NullHarnessConfig):
    """Nothing beyond the base."""


class CountHarness(NullHarness):
    """Verifiers' chat program, and a conversation of two turns."""

    async def setup(self, runtime: vf.Runtime) -> None:
        """Runs the program by this interpreter, which has its packages, and not by uv."""

        async def prepared(script, env=None, *, activate=True):
            await runtime.write("program.py", script.encode())
            return [sys.executable, "program.py"]

        runtime.prepare_uv_script = prepared

    async def launch(self, ctx, trace, runtime, endpoint, secret, mcp_urls, data, *more, **other):
        """Plays one attempt."""
        if data.number % 2:
            return await super().launch(
                ctx, trace, runtime, endpoint, secret, mcp_urls, data, *more, **other
            )
        async with AsyncOpenAI(base_url=endpoint, api_key=secret, max_retries=0) as client:
            chat = [{"role": "user", "content": data.prompt}]
            for _ in range(2):
                try:
                    done = await client.chat.completions.create(model=ctx.model, messages=chat)
                except APIStatusError as error:
                    if is_context_overflow(error):
                        break
                    raise
                said = done.choices[0].message.content
                chat += [{"role": "assistant", "content": said}, {"role": "user", "content": "?"}]
        return ProgramResult(exit_code=0, stdout="", stderr="")


class CountTaskset(vf.Taskset[CountTask, vf.TasksetConfig]):
    """A few rows."""

    def load(self) -> list[CountTask]:
        """The rows."""
        return [
            CountTask(CountData(prompt=f"[{i}]->[{i},{i}]", number=i), self.config.task)
            for i in range(4)
        ]
