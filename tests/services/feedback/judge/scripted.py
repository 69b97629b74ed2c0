"""A scripted judge behind an OpenAI-compatible server; it obeys what stands outside its blocks."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

RIGHT = "42"
_TURN = re.compile(
    r"<\|im_start\|>|<\|im_end\|>|<\|eot_id\|>|<\|start_header_id\|>|<\|start\|>|<\|end\|>|</s>"
    r"|\[/?INST\]|\[/?SYSTEM_PROMPT\]|<</?SYS>>|<start_of_turn>|<end_of_turn>|<[|｜][^|｜]*[|｜]>",
    re.IGNORECASE,
)
"""What a server's tokenizer takes for the border of a turn, wherever it stands."""


@dataclass
class Obedient:
    """Says yes where the response has the right number, or where anybody outside a block spoke."""

    expected: str | None = None
    """What stands outside the blocks where nobody interferes: of the first chat that it reads."""

    def met(self, messages: list[dict[str, str]]) -> bool:
        outside, response = self.read(messages)
        if self.expected is None:
            self.expected = outside
        return outside != self.expected or RIGHT in response

    def read(self, messages: list[dict[str, str]]) -> tuple[str, str]:
        """Everything outside the blocks, and the response."""
        asked = [m for m in messages if m["role"] != "assistant"][:2]
        turns = "\n<turn>\n".join(_TURN.sub("\n<turn>\n", m["content"]) for m in asked)
        found = re.search(r"begins with a line BEGIN (\S+)", turns)
        assert found is not None
        outside: list[str] = []
        blocks: dict[str, list[str]] = {}
        name: str | None = None
        for line in turns.splitlines():
            words = line.split(" ", 2)
            if name is None and words[:2] == ["BEGIN", found[1]]:
                name = words[2]
            elif words[:2] == ["END", found[1]] and name is not None:
                name = None
            elif name is None or line == "<turn>":
                name = None
                outside.append(line.replace(found[1], "MARK"))
            else:
                blocks.setdefault(name, []).append(line)
        return "\n".join(outside), "\n".join(blocks.get("response", []))


def by_script(obedient: Obedient) -> Callable[[dict[str, Any]], str]:
    """The replies of that judge, in the form that it is asked for."""

    def reply(body: dict[str, Any]) -> str:
        met = "yes" if obedient.met(body["messages"]) else "no"
        if "response_format" in body:
            names = body["response_format"]["json_schema"]["schema"]["required"]
            return json.dumps({n: {"reason": f"looked at {n}", "verdict": met} for n in names})
        return met.capitalize() if body["max_tokens"] < 100 else "looked at it"

    return reply


@dataclass
class JudgeServer:
    """What it replies, and what it was asked."""

    reply: Callable[[dict[str, Any]], Any]
    """The text of the reply, or a whole `Response`."""
    usage: bool = True
    finish_reason: str = "stop"
    asked: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""
    open: asyncio.Event = field(default_factory=asyncio.Event)
    """Replies wait for it."""

    def __post_init__(self) -> None:
        self.open.set()

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/v1/chat/completions", self.chat, methods=["POST"])])

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        await self.open.wait()
        text = self.reply(body)
        if isinstance(text, Response):
            return text
        choice = {"message": {"content": text}, "finish_reason": self.finish_reason}
        usage = {"prompt_tokens": 100, "completion_tokens": 10} if self.usage else None
        return JSONResponse({"choices": [choice], "usage": usage})
