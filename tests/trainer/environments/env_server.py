"""A small server of verifiers' protocol: it asks for a number, again and again, and scores."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgpack
import zmq
import zmq.asyncio


@dataclass(eq=False)
class CountServer:
    """Right is the task's number; three wrong ones end an attempt."""

    places: int = 8
    scores: bool = True
    error: str | None = None
    rewrites: bool = False
    agents: int = 1
    stream: bool = False
    tools: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    silent: bool = False
    health_s: float = 0.0
    asked_for_health: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    active: dict[str, asyncio.Task[None]] = field(default_factory=dict[str, asyncio.Task[None]])
    most: int = 0
    cancelled: int = 0
    heard: list[str] = field(default_factory=list[str])
    asked: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    socket: Any = None

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    async def idle(self) -> None:
        """Until no attempt goes on; a leaked one lets the test's own limit end it."""
        async with asyncio.timeout(30):
            while self.active:
                await asyncio.sleep(0.01)

    async def serve(self) -> None:
        while True:
            client, request, method, packed = await self.socket.recv_multipart()
            body = msgpack.unpackb(packed)
            name = request.decode()
            if method == b"health":
                self.asked_for_health.set()
                await asyncio.sleep(self.health_s)
                await self.reply(client, name, {"success": True})
            elif method == b"cancel":
                task = self.active.get(body["request_id"])
                if task is not None:
                    self.cancelled += 1
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                await self.reply(client, name, {"success": True, "cancelled": task is not None})
            else:
                self.active[name] = asyncio.create_task(self.run(client, name, body))

    async def run(self, client: bytes, name: str, body: dict[str, Any]) -> None:
        try:
            while len([n for n in self.active if n < name]) >= self.places:
                await asyncio.sleep(0.01)
            self.most = max(self.most, min(len(self.active), self.places))
            reply = await self.play(client, name, body)
        except Exception as error:
            reply = {"success": False, "error": repr(error)}
        finally:
            del self.active[name]
        await self.reply(client, name, reply)

    async def play(self, client: bytes, name: str, body: dict[str, Any]) -> dict[str, Any]:
        if self.silent:
            await asyncio.sleep(3600)
        opened = {"verifiers": {"version": "0.4.0"}, "task": {"type": "Count", "hash": "h"}}
        for agent in range(self.agents):
            opening = {"trace": f"{name}-{agent}", "open": opened, "set": {"ok": False}}
            await self.send(client, name, b"delta", opening)
        score = await self.conversation(name, body)
        errors = [] if self.error is None else [{"type": "TaskError", "message": self.error}]
        ended = {
            "ok": self.error is None,
            "rewards": {"right": {"score": score, "weight": 2.0} if self.scores else None},
            "stop_condition": "done",
        }
        await self.send(
            client, name, b"delta", {"trace": f"{name}-0", "set": ended, "errors": errors}
        )
        return {"success": True, "head": {"env": {"id": "count"}}, "traces": []}

    async def conversation(self, name: str, body: dict[str, Any]) -> float:
        task, chat = body["task_data"], [{"role": "user", "content": body["task_data"]["prompt"]}]
        for turn in range(3):
            message = await self.ask(f"{name}-{turn % self.agents}", body["client"], chat)
            if message is None:
                return 0.0
            self.heard.append(message["content"])
            if message["content"] == str(task["right"]):
                return 1.0
            calls = message.get("tool_calls")
            told: dict[str, Any] = {"role": "user", "content": "wrong"}
            if calls:
                told = {
                    "role": "tool",
                    "tool_call_id": calls[0]["id"],
                    "content": "error: no such number",
                }
            chat = [told] if self.rewrites else [*chat, message, told]
        return -0.5

    async def ask(
        self, session: str, client: dict[str, Any], chat: list[dict[str, Any]]
    ) -> dict[str, Any] | None:
        body = {"model": "x", "messages": chat, "stream": self.stream}
        body |= {"tools": self.tools} if self.tools else {}
        self.asked.append(body)
        async with httpx.AsyncClient(timeout=None) as http:
            url = f"{client['base_url']}/chat/completions"
            reply = await http.post(url, json=body, headers={"X-Session-ID": session})
        if reply.status_code == 400:
            assert "context_length_exceeded" in reply.text
            return None
        reply.raise_for_status()
        return reply.json()["choices"][0]["message"]

    async def reply(self, client: bytes, name: str, body: dict[str, Any]) -> None:
        await self.send(client, name, b"reply", body)

    async def send(self, client: bytes, name: str, kind: bytes, body: dict[str, Any]) -> None:
        await self.socket.send_multipart([client, name.encode(), kind, msgpack.packb(body)])


@asynccontextmanager
async def counting(**settings: Any) -> AsyncIterator[CountServer]:
    made = CountServer(**settings)
    context = zmq.asyncio.Context()
    made.socket = context.socket(zmq.ROUTER)
    made.socket.linger = 0
    made.port = made.socket.bind_to_random_port("tcp://127.0.0.1")
    serving = asyncio.create_task(made.serve())
    try:
        yield made
    finally:
        tasks = [serving, *made.active.values()]
        for task in tasks:
            task.cancel()
        with contextlib.suppress(Exception):
            await asyncio.gather(*tasks, return_exceptions=True)
        context.destroy(linger=0)
