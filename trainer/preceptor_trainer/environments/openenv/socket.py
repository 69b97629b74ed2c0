"""One connection to an OpenEnv server, which is one session: JSON messages over a WebSocket.

    {"type": "reset", "data": {"seed": 3}}     ->  {"type": "observation", "data": {...}}
    {"type": "step", "data": {"message": "a"}} ->  {"type": "observation", "data": {...}}
                                                   {"type": "error", "data": {"code": ..., ...}}

Every message has a deadline, and the library sends pings, so that a server that is gone is noticed
while the student writes. The library is the extra `openenv`; OpenEnv's own package is not needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self, cast
from urllib.parse import urlsplit, urlunsplit

from preceptor_trainer.environments.environment import Full, Unreachable

MAX_MESSAGE_BYTES: Final = 16 << 20
PING_S: Final = 20.0
_CLOSE_S: Final = 5.0
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0
FULL: Final = "CAPACITY_REACHED"
_IN_ITS_RULES: Final = frozenset({"EXECUTION_ERROR", "VALIDATION_ERROR", "INVALID_JSON"})
"""Errors that an action may cause; the session goes on."""


class ActionFailed(Exception):
    """The environment did not take an action; the message is for the student."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """One observation."""

    observation: dict[str, Any]
    reward: float | None
    """None where the environment gave none."""
    done: bool


def library() -> Any:
    """The package `websockets`.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module("websockets.asyncio.client")
    except ImportError:
        raise ValueError(
            "OpenEnv environments need the extra `openenv`: pip install 'preceptor[openenv]'"
        ) from None


def closed() -> type[Exception]:
    """What the package raises on a connection that is closed."""
    return importlib.import_module("websockets.exceptions").ConnectionClosed


class Connection:
    """A session. Made by `opened`; `close` ends it at the server too."""

    def __init__(self, socket: Any, url: str, timeout_s: float) -> None:
        self._socket, self._url, self._timeout_s = socket, url, timeout_s

    @classmethod
    async def opened(
        cls,
        url: str,
        reset: dict[str, Any],
        *,
        timeout_s: float,
        wait_s: float,
        may_wait: Callable[[], bool],
    ) -> tuple[Self, Observed]:
        """A session and its first observation; waits for a place where the server is full.

        Args:
            url: Address of the server.
            reset: Arguments of the reset.
            timeout_s: Longest wait for an answer.
            wait_s: Longest wait for a place.
            may_wait: False while sessions of the same run are open, whose end this one is to await.

        Raises:
            Full: the server is full, and it may not wait.
            Unreachable: there is no server, no place within `wait_s`, or no observation.
        """
        pause, until = _FIRST_PAUSE_S, asyncio.get_running_loop().time() + wait_s
        while True:
            made = await cls._connected(url, timeout_s)
            try:
                reply = await made._asked("reset", reset)
                if reply.get("code") != FULL:
                    return made, _observed(reply, url)
            except BaseException as error:
                await made.close()
                if isinstance(error, ActionFailed):
                    raise Unreachable(f"{url}: reset: {error}") from error
                raise
            await made.close()
            if not may_wait():
                raise Full(f"{url}: no session is free")
            if asyncio.get_running_loop().time() > until:
                raise Unreachable(f"{url}: no session was free within {wait_s:g} s")
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def step(self, action: dict[str, Any]) -> Observed:
        """What follows an action.

        Raises:
            ActionFailed: the environment did not take it.
            Unreachable: the session is lost.
        """
        return _observed(await self._asked("step", action), self._url)

    async def close(self) -> None:
        """Ends the session, also while this task is cancelled; never raises."""
        with contextlib.suppress(Exception):
            await asyncio.shield(self._close())

    async def _close(self) -> None:
        async with asyncio.timeout(_CLOSE_S):
            with contextlib.suppress(Exception):  # the server may be gone
                await self._socket.send(json.dumps({"type": "close"}))
            await self._socket.close()

    @classmethod
    async def _connected(cls, url: str, timeout_s: float) -> Self:
        try:
            socket = await library().connect(
                socket_url(url),
                open_timeout=timeout_s,
                close_timeout=_CLOSE_S,
                ping_interval=PING_S,
                ping_timeout=timeout_s,
                max_size=MAX_MESSAGE_BYTES,
            )
        except Exception as error:  # of the library, of TLS, of the network
            raise Unreachable(f"{url}: {_words(error)}") from error
        return cls(socket, url, timeout_s)

    async def _asked(self, kind: str, data: dict[str, Any]) -> dict[str, Any]:
        """The data of the reply, with the code of an error."""
        try:
            async with asyncio.timeout(self._timeout_s):
                # A full server says so and closes, perhaps before it was asked anything.
                with contextlib.suppress(OSError, closed()):
                    await self._socket.send(json.dumps({"type": kind, "data": data}))
                raw = await self._socket.recv()
        except TimeoutError:
            raise Unreachable(
                f"{self._url}: no answer to {kind} within {self._timeout_s:g} s"
            ) from None
        except Exception as error:
            raise Unreachable(f"{self._url}: {_words(error)}") from error
        reply = _object(raw, self._url)
        found = _object(reply.get("data"), self._url)
        if reply.get("type") == "error":
            code = str(found.get("code"))
            if code in _IN_ITS_RULES:
                raise ActionFailed(_why(found))
            if code != FULL:
                raise Unreachable(f"{self._url}: {code}: {_why(found)}")
        return found


def socket_url(url: str) -> str:
    """The address of the session's socket, of a server's address."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    path = parts.path.rstrip("/")
    return urlunsplit(
        (scheme, parts.netloc, path if path.endswith("/ws") else f"{path}/ws", "", "")
    )


def _observed(found: dict[str, Any], url: str) -> Observed:
    reward: Any = found.get("reward")
    if isinstance(reward, bool):
        reward = float(reward)
    if reward is not None and not isinstance(reward, (int, float)):
        raise Unreachable(f"{url}: its reward is {reward!r}, no number")
    return Observed(
        observation=_object(found.get("observation", {}), url),
        reward=None if reward is None else float(reward),
        done=bool(found.get("done", False)),
    )


def _object(value: Any, url: str) -> dict[str, Any]:
    if isinstance(value, (str, bytes)):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, dict):
        raise Unreachable(f"{url}: speaks another protocol: it answered with no JSON object")
    return cast("dict[str, Any]", value)


def _why(found: dict[str, Any]) -> str:
    """An error in words, with the fields of an action that were wrong."""
    errors: Any = found.get("errors")
    told: list[Any] = cast("list[Any]", errors) if isinstance(errors, list) else []
    fields = [_field(one) for one in told]
    return "; ".join([str(found.get("message") or "no reason was given"), *fields])


def _field(error: Any) -> str:
    match error:
        case {"loc": [*places], "msg": message}:
            return f"{'.'.join(map(str, places))}: {message}"
        case _:
            return str(error)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
