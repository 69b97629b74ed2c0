"""The interface between an attempt of several turns and whatever answers the student in it.

    session = await environment.open(problem, "run-l0-3-0-1")
    reply = await session.reply("<tool_call>...</tool_call>", is_last=False)
    outcome = session.outcome()
    await session.close()

An environment answers with messages; only the student's side knows tokens. What goes wrong inside
an environment's rules (a tool that fails, an action that is not allowed) is a message like any
other. `Unreachable` is for everything else: the attempt is then not judged at all, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import JsonValue

from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.tasks.task import Problem

Chat = Sequence[dict[str, str]]


class Unreachable(Exception):
    """An environment or a tool could not be asked; the message says why."""


class Full(Unreachable):
    """No session is free while others of the run are open: to be opened when those have ended."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the student reads after its turn."""

    messages: Chat = ()
    """Empty where nothing is said any more: the attempt ends."""
    is_cut: bool = False
    """Whether it would have gone on, had this not been the last turn."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a session says at its end."""

    environment: str | None = None
    """Name and version, where it judges attempts itself."""
    reward: float | None = None
    """Its own reward; None where it gave none."""
    text: str | None = None
    """What it said of failures."""
    details: dict[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    """Further facts for the record."""


class Session(Protocol):
    """One attempt."""

    @property
    def opening(self) -> Chat:
        """Messages that the student reads before its first turn, after those of the problem."""
        ...

    @property
    def opening_is_chat(self) -> bool:
        """Whether `opening` is the whole chat, in the place of the problem's."""
        ...

    async def reply(self, text: str, *, is_last: bool) -> Reply:
        """The answer to one turn of the student, which may have no further one.

        Raises:
            Unreachable: no answer came.
        """
        ...

    async def cut(self, text: str) -> None:
        """The attempt ends at a limit of tokens.

        Args:
            text: A turn that was cut and is no whole one; empty where none was begun.

        Raises:
            Unreachable: no answer came.
        """
        ...

    def outcome(self) -> Outcome:
        """What is known so far."""
        ...

    async def close(self) -> None:
        """Always called, whatever happened; never raises."""
        ...


class Environment(Protocol):
    """Answers the attempts of one run."""

    @property
    def max_sessions(self) -> int | None:
        """Most sessions at a time; None for any number."""
        ...

    async def open(self, problem: Problem, episode_id: str) -> Session:
        """The session of one attempt.

        Raises:
            Full: no session is free while others of this run are open.
            Unreachable: it cannot be opened.
        """
        ...

    async def close(self) -> None:
        """Ends everything that it started."""
        ...


class Connects(Protocol):
    """The configuration of an environment."""

    def connect(self, gateway: GatewayClient, run: str) -> Environment:
        """The environment of one run; nothing is started before the first session."""
        ...


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """Attempts of several turns: who answers the student, and how far an attempt may go.

    The sampler's `max_new_tokens` is for the whole attempt: what the student writes and what it
    reads, so that prompt and attempt always fit into the model's positions.
    """

    environment: Connects
    """Who answers."""
    max_turns: int = 8
    """Most turns of the student; an attempt that would go on is cut off."""
    turn_tokens: int | None = None
    """Most tokens of one turn of the student; an attempt with a longer one is cut off."""
    reply_role: str | None = None
    """Role of what tools answer; None is `tool`, or `user` where the chat template shows none."""
    max_failed: float = 0.5
    """Largest share of a step's attempts that may end because nothing answered them; above it the
    run ends with the reason."""

    def __post_init__(self) -> None:
        for name, value in (("max_turns", self.max_turns), ("turn_tokens", self.turn_tokens)):
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be at least 1, not {value}")
        if not 0 <= self.max_failed <= 1:
            raise ValueError(f"max_failed: must be in 0..1, not {self.max_failed}")
