"""A small server of OpenEnv's protocol: guess a number; it counts its sessions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

ABOUT = {
    "/metadata": {"name": "guess", "version": "3", "description": "x"},
    "/schema": {"action": {"type": "object", "properties": {"guess": {"type": "string"}}}},
}


@dataclass(eq=False)
class GuessServer:
    """Right is the number of the seed; three wrong guesses end an episode."""

    capacity: int = 4
    rewards: bool = True
    at_reset: float | None = None
    calls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    dies_at: str | None = None
    silent_at: str | None = None
    active: int = 0
    most: int = 0
    opened: int = 0
    refused: int = 0
    resets: list[dict[str, Any]] = field(default_factory=list)
    server: Server | None = None

    @property
    def url(self) -> str:
        assert self.server is not None
        [socket] = self.server.sockets
        return f"http://127.0.0.1:{socket.getsockname()[1]}"

    async def idle(self) -> None:
        """Until no session is open; a leaked one lets the test's own limit end it."""
        async with asyncio.timeout(30):
            while self.active:
                await asyncio.sleep(0.01)

    def about(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.path not in ABOUT:
            return None
        body = json.dumps(ABOUT[request.path]).encode()
        headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body))})
        headers["Connection"] = "close"
        return Response(HTTPStatus.OK, "OK", headers, body)

    async def session(self, socket: ServerConnection) -> None:
        if self.active >= self.capacity:
            self.refused += 1
            await socket.send(error("CAPACITY_REACHED", "full"))
            return
        self.active, self.opened = self.active + 1, self.opened + 1
        self.most = max(self.most, self.active)
        try:
            await self.play(socket)
        finally:
            self.active -= 1

    async def play(self, socket: ServerConnection) -> None:
        wrong, right = 0, ""
        async for raw in socket:
            message = json.loads(raw)
            data = message.get("data", {})
            if message["type"] == "close":
                return
            if message["type"] == "reset":
                self.resets.append(data)
                right = str(data["seed"])
                await socket.send(observed("guess", self.at_reset, done=False))
                continue
            if data.get("type") == "call_tool":
                self.calls.append(data)
                data = data["arguments"]
            guess = data.get("guess")
            if guess == self.dies_at is not None:
                socket.transport.abort()
                return
            if guess == self.silent_at is not None:
                continue
            if not isinstance(guess, str):
                errors = [{"loc": ["guess"], "msg": "a text is needed"}]
                await socket.send(error("VALIDATION_ERROR", "Invalid message", errors=errors))
            elif guess == "boom":
                await socket.send(error("EXECUTION_ERROR", "it went boom"))
            elif guess == right:
                await socket.send(observed("right", self.reward(1.0), done=True))
            else:
                wrong += 1
                await socket.send(observed("wrong", self.reward(-0.25), done=wrong == 3))

    def reward(self, value: float) -> float | None:
        return value if self.rewards else None


def observed(said: str, reward: float | None, *, done: bool) -> str:
    data = {"observation": {"said": said, "metadata": {}}, "reward": reward, "done": done}
    return json.dumps({"type": "observation", "data": data})


def error(code: str, message: str, **more: Any) -> str:
    return json.dumps({"type": "error", "data": {"code": code, "message": message, **more}})


@asynccontextmanager
async def guessing(**settings: Any) -> AsyncIterator[GuessServer]:
    made = GuessServer(**settings)
    async with serve(made.session, "127.0.0.1", 0, process_request=made.about) as server:
        made.server = server
        yield made
