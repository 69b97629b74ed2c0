"""The address at which an environment asks the student: OpenAI's chat completions, and no model.

A request is handed to whoever plays the attempt, by the session's id in its headers, and is
answered with what the student wrote. The address has a secret in its path. Left out: sampling
settings of the request, which are the run's own; log-probs; several choices.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from preceptor_clients.contract.errors import PreceptorError
from preceptor_clients.sdk.asgi import (
    ClientGone,
    Receive,
    Reply,
    Scope,
    Send,
    header,
    problem_reply,
    read_body,
    send_reply,
    unless_gone,
)
from preceptor_clients.sdk.serving import http_protocol
from preceptor_trainer.environments.tools.calls import Call

MODEL: Final = "student"
_SESSION: Final = "x-session-id"
_MAX_BODY: Final = 16 << 20
_KNOWN_WITHIN_S: Final = 10.0
"""A request may come before the server's word on whose it is."""
_END_S: Final = 2.0
_JSON: Final = "application/json"
_EVENTS: Final = "text/event-stream"
FULL: Final = "context_length_exceeded"
"""OpenAI's code for a chat that has no room for an answer: the environment ends the attempt."""

Finish = Literal["stop", "length"]


@dataclass(eq=False)
class Asked:
    """One request for a turn of the student, which waits for it."""

    session: str
    body: dict[str, Any]
    reply: asyncio.Future[Reply] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def answer(self, text: str, calls: Sequence[Call], finish: Finish) -> dict[str, Any]:
        """Answers with a turn; returns its message."""
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if calls:
            message["tool_calls"] = [_call(call) for call in calls]
        reason = "tool_calls" if calls and finish == "stop" else finish
        streamed = bool(self.body.get("stream"))
        self._set((_streamed if streamed else _whole)(message, reason))
        return message

    def refuse(self) -> None:
        """Says that there is no room for a further turn."""
        message = f"{FULL}: the attempt has no room for a further turn"
        error = {"message": message, "type": "invalid_request_error", "code": FULL}
        self._set(Reply(400, json.dumps({"error": error}).encode(), _JSON))

    def _set(self, reply: Reply) -> None:
        if not self.reply.done():
            self.reply.set_result(reply)


class Face:
    """Serves the address while a run lasts."""

    def __init__(self, host: str, port: int) -> None:
        self._listening = socket.create_server((host, port))
        self._path = f"/{secrets.token_urlsafe(24)}"
        self._inboxes: dict[str, asyncio.Queue[Any]] = {}
        self._changed = asyncio.Event()
        self._server: Any = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listening.getsockname()[1])

    def base_url(self, origin: str) -> str:
        """The address as the environment is told it, of scheme, host and port."""
        return f"{origin}{self._path}/v1"

    async def start(self) -> None:
        """Serves from now on."""
        import uvicorn

        class Quiet(uvicorn.Server):
            """Leaves the process's signals alone."""

            @contextlib.contextmanager
            def capture_signals(self) -> Generator[None]:
                yield

        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            http=http_protocol(),
            ws="none",
            lifespan="off",
            log_level="error",
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        self._server = Quiet(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listening]))

    async def close(self) -> None:
        """Ends it, with the requests that wait."""
        if self._serving is not None:
            self._server.should_exit = True
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_END_S):
                    await self._serving
        self._listening.close()

    def expect(self, session: str, inbox: asyncio.Queue[Any]) -> None:
        """Puts the requests of a session into `inbox`."""
        self._inboxes[session] = inbox
        self._changed.set()
        self._changed = asyncio.Event()

    def forget(self, inbox: asyncio.Queue[Any]) -> None:
        """Puts no further request into `inbox`."""
        for session in [name for name, known in self._inboxes.items() if known is inbox]:
            del self._inboxes[session]

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        with contextlib.suppress(ClientGone):
            try:
                reply = await self._reply(scope, receive)
            except PreceptorError as error:
                reply = problem_reply(error)
            await send_reply(send, reply)

    async def _reply(self, scope: Scope, receive: Receive) -> Reply:
        path: str = scope["path"]
        before, _, rest = path.partition("/v1/")
        if not secrets.compare_digest(before.encode(), self._path.encode()):
            return _refused(404, "there is nothing at this address")
        if scope["method"] == "GET" and rest == "models":
            listed = {"object": "list", "data": [{"id": MODEL, "object": "model"}]}
            return Reply(200, json.dumps(listed).encode(), _JSON)
        if scope["method"] != "POST" or rest != "chat/completions":
            return _refused(404, "the student answers chat completions alone")
        return await self._turn(scope, receive)

    async def _turn(self, scope: Scope, receive: Receive) -> Reply:
        raw = await read_body(scope, receive, _MAX_BODY)
        try:
            body: Any = json.loads(raw)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            return _refused(400, "the body is no JSON object")
        session = header(scope, _SESSION) or ""
        inbox = await self._inbox(session)
        if inbox is None:
            return _refused(409, "no attempt of this session goes on")
        asked = Asked(session, cast("dict[str, Any]", body))
        inbox.put_nowait(asked)
        return await unless_gone(receive, _awaited(asked.reply))

    async def _inbox(self, session: str) -> asyncio.Queue[Any] | None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KNOWN_WITHIN_S):
                while session not in self._inboxes:
                    await self._changed.wait()
        return self._inboxes.get(session)


async def _awaited(reply: asyncio.Future[Reply]) -> Reply:
    return await reply


def _refused(status: int, message: str) -> Reply:
    return Reply(status, json.dumps({"error": {"message": message}}).encode(), _JSON)


def _call(call: Call) -> dict[str, Any]:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    function = {"name": call.name, "arguments": arguments}
    return {"id": f"call_{secrets.token_hex(8)}", "type": "function", "function": function}


def _whole(message: dict[str, Any], reason: str) -> Reply:
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return Reply(200, json.dumps(_completion("chat.completion", [choice])).encode(), _JSON)


def _streamed(message: dict[str, Any], reason: str) -> Reply:
    calls = [{"index": i, **call} for i, call in enumerate(message.get("tool_calls", ()))]
    delta = {**message, "tool_calls": calls} if calls else message
    kind = "chat.completion.chunk"
    nothing: dict[str, Any] = {}
    first = _completion(kind, [{"index": 0, "delta": delta, "finish_reason": None}])
    last = {**first, "choices": [{"index": 0, "delta": nothing, "finish_reason": reason}]}
    events = [f"data: {json.dumps(chunk)}\n\n" for chunk in (first, last)]
    return Reply(200, "".join([*events, "data: [DONE]\n\n"]).encode(), _EVENTS)


def _completion(kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{secrets.token_hex(8)}",
        "object": kind,
        "created": int(time.time()),
        "model": MODEL,
        "choices": choices,
    }
