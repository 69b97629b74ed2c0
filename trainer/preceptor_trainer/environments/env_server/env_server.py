"""Environments of verifiers' `EnvServer`: they ask the student for turns, and score the attempt.

    Dialogue(environment=EnvServer(url="tcp://localhost:5000"))

The row's column `task` is the task, as verifiers dumps it. The environment asks at an address of
the trainer (`face.py`), so the roles are reversed: what it asks is what the student reads, and what
the student writes is the answer. The chat is the environment's own, in the place of the row's. An
attempt is one conversation that only grows; one that is rewritten, or of several agents, is not
judged. The reward is the weighted sum of the environment's, and none where one is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast
from urllib.parse import urlsplit

from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.environments.env_server.chat import (
    Seen,
    opening_of,
    seen_in,
    tools_of,
)
from preceptor_trainer.environments.env_server.face import MODEL, Asked, Face, Finish
from preceptor_trainer.environments.env_server.trace import Traces
from preceptor_trainer.environments.env_server.wire import GONE, Frame, Wire
from preceptor_trainer.environments.environment import Chat, Full, Outcome, Reply, Unreachable
from preceptor_trainer.environments.once import Once
from preceptor_trainer.environments.tools.calls import CallForm, calls_in
from preceptor_trainer.tasks.task import Problem

_MOST_TEXT: Final = 4_000
_FAILED: Final = "error"
"""What the tools of verifiers' programs begin with, where they failed."""


@dataclass(frozen=True, kw_only=True)
class EnvServer:
    """An environment, by the address of its server."""

    url: str
    """Address of the server, as `tcp://HOST:PORT`."""
    listen: str = "127.0.0.1:0"
    """Host and port at which the trainer awaits the environment's requests; port 0 is any."""
    callback: str | None = None
    """The same as the environment sees it, as `http://HOST:PORT`, where it is elsewhere."""
    calls: CallForm = "hermes"
    """How the student writes a call of a tool."""
    sessions: int = 16
    """Most attempts at a time."""
    timeout_s: float = 60.0
    """Longest wait for the environment's next word."""
    wait_s: float = 300.0
    """Longest wait for the first one where the server is full."""
    max_output: int = 4_000
    """Most characters of one message that are shown."""

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("tcp", "ipc"):
            raise ValueError(f"url: {self.url!r} is no address like tcp://localhost:5000")
        if self.calls not in ("hermes", "json"):
            raise ValueError(
                f"calls: {self.calls!r} has a text in the place of arguments, which an environment "
                "gives no name; use `hermes` or `json`"
            )
        if not self.timeout_s > 0 or not self.wait_s >= 0:
            raise ValueError("timeout_s: must be above 0, and wait_s at least 0")
        if self.sessions < 1 or self.max_output < 1:
            raise ValueError("sessions: must be at least 1, and so must max_output")
        self.place()

    def place(self) -> tuple[str, int]:
        """Host and port of `listen`."""
        host, colon, port = self.listen.rpartition(":")
        if not colon or not host or not port.isdigit():
            raise ValueError(f"listen: {self.listen!r} is no HOST:PORT")
        return host.strip("[]"), int(port)

    def connect(self, gateway: GatewayClient, run: str) -> RunningEnvServer:
        """The environment of one run."""
        del gateway, run
        return RunningEnvServer(self)


@dataclass(frozen=True, kw_only=True)
class _Both:
    """The two ends of a run."""

    wire: Wire
    face: Face
    base_url: str


class RunningEnvServer:
    """The connection to the server and the address that it asks, opened with the first attempt."""

    def __init__(self, config: EnvServer) -> None:
        self.config = config
        self._start = Once(self._started)
        self.num_open = 0

    @property
    def max_sessions(self) -> int | None:
        """As configured."""
        return self.config.sessions

    async def open(self, problem: Problem, episode_id: str) -> EnvServerSession:
        """Starts a rollout; its session begins with what the environment first asks."""
        both = await self._start()
        session = EnvServerSession(self, both.wire, both.face, episode_id)
        self.num_open += 1
        try:
            await session.begin(_request(problem, both.base_url))
        except BaseException:
            await asyncio.shield(session.close())
            raise
        return session

    async def close(self) -> None:
        """Ends both."""
        both = await self._start.stop()
        if both is not None:
            await both.face.close()
            await both.wire.close()

    async def _started(self) -> _Both:
        config = self.config
        wire = Wire(config.url)
        host, port = config.place()
        try:
            await wire.health(config.timeout_s)
            face = Face(host, port)
        except OSError as error:
            await wire.close()
            raise Unreachable(f"listen: {config.listen}: {error}") from error
        except BaseException:
            await wire.close()
            raise
        await face.start()
        shown = f"[{host}]" if ":" in host else host
        origin = (config.callback or f"http://{shown}:{face.port}").rstrip("/")
        return _Both(wire=wire, face=face, base_url=face.base_url(origin))


@dataclass(eq=False)
class _Ended:
    """The server's last word on a rollout."""

    reply: Frame


@dataclass(eq=False)
class EnvServerSession:
    """One attempt."""

    environment: RunningEnvServer
    wire: Wire
    face: Face
    episode_id: str
    opening: Chat = ()
    opening_is_chat: bool = True
    traces: Traces = field(default_factory=Traces)
    inbox: asyncio.Queue[Asked | _Ended] = field(default_factory=asyncio.Queue[Any])
    failures: list[str] = field(default_factory=list[str])
    tools: list[str] = field(default_factory=list[str])
    told: list[Seen] = field(default_factory=list[Seen])
    trace: str | None = None
    reward: float | None = None
    ended: bool = False
    _run: str | None = None
    _asked: Asked | None = None
    _is_open: bool = True

    async def begin(self, request: Frame) -> None:
        """Starts the rollout and awaits what the environment first asks.

        Raises:
            Full: it asks nothing while others of this run are open.
            Unreachable: it asks nothing at all.
        """
        config = self.environment.config
        self._run = await self.wire.run(request, self._take)
        try:
            first = await self._next(config.timeout_s)
        except _Late as late:
            if self.environment.num_open > 1:
                raise Full(f"{config.url}: {late}") from None
            first = await self._awaited(max(config.wait_s - config.timeout_s, 0.0))
        if isinstance(first, _Ended):
            self._judge(first)
            raise Unreachable(f"{config.url}: it ended without asking the student anything")
        self._asked = first
        self.told = seen_in(first.body)
        self.tools, described = tools_of(first.body)
        self.opening = opening_of(first.body, described)

    async def reply(self, text: str, *, is_last: bool) -> Reply:
        """Answers with the turn, also the last one, and awaits what is asked next."""
        following = await self._answered(text, "stop")
        if isinstance(following, _Ended):
            self._judge(following)
            return Reply()
        self._asked = following
        if is_last:
            await self._no_further()
            return Reply(is_cut=True)
        return Reply(messages=self._news(following))

    async def cut(self, text: str) -> None:
        """Answers with a turn that was cut, and lets the environment score what there is."""
        following = await self._answered(text, "length") if text else self._asked
        if isinstance(following, Asked):
            self._asked = following
            await self._no_further()
        elif following is not None:
            self._judge(following)

    def outcome(self) -> Outcome:
        """Reward and record."""
        return Outcome(
            environment=self.traces.environment(),
            reward=self.reward,
            text="\n".join(self.failures)[:_MOST_TEXT] or None,
            details={"episode": self.episode_id, **self.traces.details(self.trace)},
        )

    async def close(self) -> None:
        """Ends the rollout at the server unless it has ended; never raises."""
        if not self._is_open:
            return
        self._is_open = False
        self.environment.num_open -= 1
        self.face.forget(self.inbox)
        if self._asked is not None:
            self._asked.refuse()
        while not self.inbox.empty():
            said = self.inbox.get_nowait()
            if isinstance(said, Asked):
                said.refuse()
        if self._run is not None and not self.ended:
            await self.wire.cancel(self._run)
        elif self._run is not None:
            self.wire.forget(self._run)

    async def _answered(self, text: str, finish: Finish) -> Asked | _Ended:
        config = self.environment.config
        assert self._asked is not None
        calls = calls_in(text, config.calls, self.tools) if self.tools else []
        asked, self._asked = self._asked, None
        message = asked.answer(text, [call for call in calls if call.problem is None], finish)
        self.told += seen_in({"messages": [message]})
        return await self._awaited(config.timeout_s)

    async def _no_further(self) -> None:
        """Says that there is no room for a further turn, until the environment ends the attempt."""
        config = self.environment.config
        following: Asked | _Ended | None = self._asked
        while isinstance(following, Asked):
            following.refuse()
            following = await self._awaited(config.timeout_s)
        if following is not None:
            self._judge(following)

    def _news(self, asked: Asked) -> Chat:
        """What was asked beyond what the student knows."""
        now = seen_in(asked.body)
        known = len(self.told)
        if now[:known] != self.told or len(now) == known:
            raise Unreachable(
                f"{self._url}: it rewrote the conversation, which is then no one sequence of tokens"
            )
        self.told = now
        return [self._shown(message) for message in now[known:]]

    def _shown(self, message: Seen) -> dict[str, str]:
        if message.role == "assistant":
            raise Unreachable(f"{self._url}: it put a turn into the student's mouth")
        if message.role == "tool" and message.text.startswith(_FAILED):
            self.failures.append(message.text)
        return {
            "role": message.role,
            "content": message.text[: self.environment.config.max_output],
        }

    def _judge(self, ended: _Ended) -> None:
        try:
            self.traces.take_end(ended.reply)
            self.reward = self.traces.reward(self.trace)
        except Unreachable as error:
            raise Unreachable(f"{self._url}: {error}") from None

    def _take(self, kind: str, frame: Frame) -> None:
        if kind == GONE:
            self.ended = True  # nobody hears a cancel, and what it asks is refused from now on
            self.inbox.put_nowait(_Ended({"error": "the connection to the server was lost"}))
            return
        if kind == "reply":
            self.ended = True
            self.inbox.put_nowait(_Ended(frame))
            return
        new = self.traces.take(frame)
        if new is not None and self._is_open:
            self.face.expect(new, self.inbox)

    async def _awaited(self, limit_s: float) -> Asked | _Ended:
        try:
            return await self._next(limit_s)
        except _Late as late:
            raise Unreachable(f"{self._url}: {late}") from None

    async def _next(self, limit_s: float) -> Asked | _Ended:
        """The environment's next word."""
        try:
            async with asyncio.timeout(limit_s):
                said = await self.inbox.get()
        except TimeoutError:
            raise _Late(f"it asked the student nothing within {limit_s:g} s") from None
        if isinstance(said, Asked):
            self._of_one_agent(said)
        return said

    def _of_one_agent(self, asked: Asked) -> None:
        if self.trace is None:
            self.trace = asked.session
        if asked.session != self.trace:
            asked.refuse()
            raise Unreachable(f"{self._url}: its attempts have several agents, of which one learns")

    @property
    def _url(self) -> str:
        return self.environment.config.url


class _Late(Exception):
    """Nothing came in time."""


def _request(problem: Problem, base_url: str) -> Frame:
    task: Any = problem.payload.get("task")
    if not isinstance(task, dict):
        raise Unreachable(
            f"problem {problem.id}: its column `task` is {type(task).__name__}, not the object "
            "that verifiers makes of a task"
        )
    data = cast("dict[str, Any]", task)
    return {
        "task_data": {"prompt": _prompt(problem.messages), **data},
        "client": {"type": "eval", "base_url": base_url, "api_key_var": "PRECEPTOR_NO_KEY"},
        "model": MODEL,
        "sampling": {},
    }


def _prompt(messages: Sequence[dict[str, str]]) -> str | list[dict[str, str]]:
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return list(messages)
