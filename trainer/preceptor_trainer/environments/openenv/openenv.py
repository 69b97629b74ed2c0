"""An OpenEnv environment: the student's turns are its actions, its observations are read.

    Dialogue(environment=OpenEnv(url="http://localhost:8000", action_field="message"))

Every attempt has a session of its own, which is closed whatever happens. The row's columns `seed`,
`split`, `index` and `episode` go to the environment's reset, the seed being the same for all
attempts at a row. The reward is the sum of the steps' rewards, and none where no step had one. An
attempt of whose turns the environment took none has the reward of its first observation. What the
environment refuses, or marks as an error, the student reads, and so may the teacher.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar, cast

from pydantic import JsonValue

from preceptor_clients.contract.errors import PreceptorError
from preceptor_clients.contract.schemas import Answer
from preceptor_clients.http.connection import HttpClient
from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.environments.environment import Chat, Outcome, Reply, Unreachable
from preceptor_trainer.environments.once import Once
from preceptor_trainer.environments.openenv.socket import ActionFailed, Connection, Observed
from preceptor_trainer.environments.tools.calls import CallForm, calls_in
from preceptor_trainer.tasks.task import Problem

Actions = Literal["field", "json", "tools"]
_FROM_ROW: Final = ("seed", "split", "index", "episode")
_METADATA_S: Final = 30.0
_LONG: Final = 1 << 20
_MOST_TEXT: Final = 4_000
M = TypeVar("M", bound=Answer)


class _Metadata(Answer):
    """`GET /metadata`, as far as it is recorded."""

    name: str = "environment"
    version: str | None = None


class _Schema(Answer):
    """`GET /schema`."""

    action: dict[str, JsonValue] | None = None


@dataclass(frozen=True, kw_only=True)
class OpenEnv:
    """An environment, by the address of its server."""

    url: str
    """Address of the server."""
    actions: Actions = "json"
    """`field`: a turn is the text of the field `action_field`; `json`: a turn ends with an action
    as a JSON object; `tools`: the environment has tools, and a turn calls them."""
    action_field: str | None = None
    """Field of an action that a turn fills, for `field`."""
    action_tool: str | None = None
    """Tool of the environment, for `field`: a turn calls it with the argument `action_field`."""
    observation_field: str | None = None
    """Field of an observation that is shown; the whole as JSON where absent."""
    calls: CallForm = "hermes"
    """How the student writes a call, for `tools`."""
    reset: dict[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    """Further arguments of every reset."""
    sessions: int = 16
    """Most sessions at a time."""
    timeout_s: float = 60.0
    """Longest wait for an observation."""
    wait_s: float = 300.0
    """Longest wait for a session where the server is full."""
    max_output: int = 4_000
    """Most characters of an observation that are shown."""

    def __post_init__(self) -> None:
        if (self.actions == "field") != (self.action_field is not None):
            raise ValueError("action_field: is given for actions = `field`, and for no other")
        if self.action_tool is not None and self.actions != "field":
            raise ValueError("action_tool: is given for actions = `field`, and for no other")
        if self.calls not in ("hermes", "json"):
            raise ValueError(
                f"calls: {self.calls!r} has a text in the place of arguments, which an environment "
                "gives no name; use `hermes` or `json`"
            )
        if not self.timeout_s > 0 or not self.wait_s >= 0:
            raise ValueError("timeout_s: must be above 0, and wait_s at least 0")
        if self.sessions < 1 or self.max_output < 1:
            raise ValueError("sessions: must be at least 1, and so must max_output")

    def connect(self, gateway: GatewayClient, run: str) -> RunningOpenEnv:
        """The environment of one run."""
        del gateway, run
        return RunningOpenEnv(self)


class RunningOpenEnv:
    """Opens sessions, and knows what the server says of itself."""

    def __init__(self, config: OpenEnv) -> None:
        self.config = config
        self.named = ""
        self.schema: str | None = None
        self._ask = Once(self._asked)
        self._num_open = 0

    @property
    def max_sessions(self) -> int | None:
        """As configured."""
        return self.config.sessions

    async def open(self, problem: Problem, episode_id: str) -> OpenEnvSession:
        """A session and its first observation."""
        await self._ask()
        reset = {**self.config.reset, **_of_row(problem), "episode_id": episode_id}
        self._num_open += 1
        try:
            return await self._opened(reset, episode_id)
        except BaseException:
            self._num_open -= 1
            raise

    def closed(self) -> None:
        """One session less."""
        self._num_open -= 1

    async def _opened(self, reset: dict[str, Any], episode_id: str) -> OpenEnvSession:
        config = self.config
        connection, first = await Connection.opened(
            config.url,
            reset,
            timeout_s=config.timeout_s,
            wait_s=config.wait_s,
            may_wait=lambda: self._num_open == 1,
        )
        session = OpenEnvSession(self, connection, episode_id)
        try:
            session.opening = await session.begin(first)
        except BaseException as error:
            await connection.close()
            if isinstance(error, ActionFailed):
                raise Unreachable(f"{config.url}: {error}") from error
            raise
        return session

    async def close(self) -> None:
        """Sessions are closed with their attempts."""

    async def _asked(self) -> None:
        """Name, version and actions of the environment."""
        config = self.config
        limit_s = min(config.timeout_s, _METADATA_S)
        try:
            async with HttpClient(config.url) as client:
                metadata = await _get(client, "/metadata", _Metadata, limit_s)
                schema = await _get(client, "/schema", _Schema, limit_s)
        except (PreceptorError, ValueError) as error:
            raise Unreachable(f"{config.url}: {error}") from error
        self.schema = json.dumps(schema.action) if schema.action else None
        self.named = " ".join(part for part in (metadata.name, metadata.version) if part)


@dataclass(eq=False)
class OpenEnvSession:
    """One attempt."""

    environment: RunningOpenEnv
    connection: Connection
    episode_id: str
    opening: Chat = ()
    rewards: list[float] = field(default_factory=list[float])
    failures: list[str] = field(default_factory=list[str])
    steps: int = 0
    done: bool = False
    tools: list[str] = field(default_factory=list[str])
    opening_is_chat: bool = False
    reward_at_reset: float | None = None

    async def begin(self, first: Observed) -> Chat:
        """What the student reads first: the observation, and how it acts."""
        config = self.environment.config
        self.reward_at_reset = first.reward
        parts = [self._shown(first)]
        if config.actions == "tools":
            listed = await self._step({"type": "list_tools"})
            tools = cast("list[dict[str, Any]]", listed.observation.get("tools") or [])
            self.tools = [str(tool.get("name")) for tool in tools]
            parts += ["Tools:", *(json.dumps(tool) for tool in tools)]
        elif config.actions == "json" and self.environment.schema is not None:
            parts += [f"An action is a JSON object of this schema: {self.environment.schema}"]
        said = "\n".join(part for part in parts if part)
        return ({"role": "user", "content": said},) if said else ()

    async def reply(self, text: str, *, is_last: bool) -> Reply:
        """Takes the turn as an action, also the last one, whose reward counts."""
        try:
            actions = self._actions(text)
        except ActionFailed as error:
            return self._refused(str(error), is_last=is_last)
        if not actions:  # a turn without a call ends an attempt with tools
            return Reply()
        said: list[str] = []
        for action in actions:
            try:
                observed = await self._step(action)
            except ActionFailed as error:
                self._failed(str(error))
                said.append(f"error: {error}")
                continue
            said.append(self._shown(observed))
            if observed.done:
                return Reply()
        if is_last:
            return Reply(is_cut=True)
        return Reply(messages=({"role": "user", "content": "\n".join(said)},))

    async def cut(self, text: str) -> None:
        """A turn that was cut is no action."""

    def outcome(self) -> Outcome:
        """The sum of the rewards, and what failed."""
        details: dict[str, JsonValue] = {
            "episode": self.episode_id,
            "steps": self.steps,
            "rewards": cast("list[JsonValue]", list(self.rewards)),
            "done": self.done,
        }
        return Outcome(
            environment=self.environment.named,
            reward=self._reward(),
            text="\n".join(self.failures)[-_MOST_TEXT:] or self._nothing_done(),
            details=details,
        )

    def _reward(self) -> float | None:
        if self.rewards:
            return sum(self.rewards)
        return None if self.steps else self.reward_at_reset

    def _nothing_done(self) -> str | None:
        return None if self.steps else "no turn was an action that the environment took"

    async def close(self) -> None:
        """Ends the session at the server."""
        await self.connection.close()
        self.environment.closed()

    async def _step(self, action: dict[str, Any]) -> Observed:
        observed = await self.connection.step(action)
        if action.get("type") == "list_tools":
            return observed
        self.steps += 1
        self.done = observed.done
        if observed.reward is not None:
            self.rewards.append(observed.reward)
        error = observed.observation.get("error")
        if error:
            self._failed(_text(error))
        return observed

    def _actions(self, text: str) -> list[dict[str, Any]]:
        config = self.environment.config
        if config.actions == "field":
            assert config.action_field is not None
            filled = {config.action_field: text}
            return [filled if config.action_tool is None else _call(config.action_tool, filled)]
        if config.actions == "json":
            return [_last_object(text)]
        calls = calls_in(text, config.calls, self.tools)
        problems = [call.problem for call in calls if call.problem]
        if problems:
            raise ActionFailed(problems[0])
        return [_call(call.name, call.arguments) for call in calls]

    def _refused(self, reason: str, *, is_last: bool) -> Reply:
        self._failed(reason)
        if is_last:
            return Reply(is_cut=True)
        return Reply(messages=({"role": "user", "content": f"error: {reason}"},))

    def _failed(self, reason: str) -> None:
        self.failures.append(reason)

    def _shown(self, observed: Observed) -> str:
        config, seen = self.environment.config, observed.observation
        if config.observation_field is not None:
            if config.observation_field not in seen:
                raise Unreachable(
                    f"{config.url}: an observation has no field {config.observation_field!r}, "
                    f"only {', '.join(seen) or 'none'}"
                )
            text = _text(seen[config.observation_field])
        else:
            shown = {name: value for name, value in seen.items() if name != "metadata"}
            text = _text(shown) if shown else ""
        return text[: config.max_output]


async def _get(client: HttpClient, path: str, reply: type[M], limit_s: float) -> M:
    return await client.call("GET", path, reply=reply, timeout_s=limit_s, max_reply_bytes=_LONG)


def _call(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "call_tool", "tool_name": tool, "arguments": arguments}


def _of_row(problem: Problem) -> dict[str, Any]:
    """Arguments of the reset that a row has; its seed is one of its own where it names none."""
    digest = hashlib.sha256(problem.id.encode()).digest()
    row = {"seed": int.from_bytes(digest[:4]) >> 1, **problem.payload}
    return {name: row[name] for name in _FROM_ROW if name in row}


def _last_object(text: str) -> dict[str, Any]:
    """The last JSON object of a text.

    Raises:
        ActionFailed: there is none.
    """
    decoder = json.JSONDecoder()
    for start in _starts(text):
        try:
            value, end = decoder.raw_decode(text, start)
        except ValueError:
            continue
        if isinstance(value, dict) and not text[end:].strip(" \n`}"):
            return cast("dict[str, Any]", value)
    raise ActionFailed("the turn does not end with an action, which is a JSON object")


def _starts(text: str) -> Sequence[int]:
    return [i for i, char in enumerate(text) if char == "{"][-256:]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
