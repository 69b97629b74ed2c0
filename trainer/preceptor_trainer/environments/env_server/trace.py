"""A rollout as verifiers' server tells of it, piece by piece: its traces, and what they came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, cast

from pydantic import JsonValue

from preceptor_trainer.environments.env_server.wire import Frame
from preceptor_trainer.environments.environment import Unreachable

_RECORDED: Final = ("stop_condition", "is_timeout", "rewards", "metrics")


@dataclass(eq=False)
class Traces:
    """The traces of one rollout; one trace is one agent's."""

    found: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    head: dict[str, Any] = field(default_factory=dict[str, Any])

    def take(self, delta: Frame) -> str | None:
        """Takes a delta; returns the id of a trace that is new."""
        name = str(delta.get("trace"))
        if delta.get("discard"):
            self.found.pop(name, None)
            return None
        new = name not in self.found
        trace = self.found.setdefault(name, {"errors": []})
        for part in ("open", "set"):
            trace.update(_object(delta.get(part)))
        trace["errors"] += _list(delta.get("errors"))
        return name if new else None

    def environment(self) -> str:
        """Name and version, as far as they are known."""
        trace = _object(next(iter(self.found.values()), None))
        name = _object(self.head.get("env")).get("id") or _object(trace.get("task")).get("type")
        version = _object(trace.get("verifiers")).get("version")
        return f"{name or 'environment'} of verifiers {version or 'of an unknown version'}"

    def reward(self, name: str | None) -> float | None:
        """The weighted sum of a trace's rewards; None where there is none, or one is missing.

        Raises:
            Unreachable: the trace did not come to its end, or has a reward that is no number.
        """
        rewards = list(_object(self._finished(name).get("rewards")).values())
        if not rewards or any(reward is None for reward in rewards):
            return None
        return sum(_value(reward) for reward in rewards)

    def take_end(self, reply: Frame) -> None:
        """Takes the last word on the rollout.

        Raises:
            Unreachable: the server could not run it.
        """
        if not reply.get("success"):
            raise Unreachable(str(reply.get("error") or "no reason was given"))
        self.head = _object(reply.get("head"))

    def details(self, name: str | None) -> dict[str, JsonValue]:
        """What is recorded of a trace."""
        trace = self.found.get(name or "", {})
        kept = {key: trace[key] for key in _RECORDED if trace.get(key)}
        task = _object(trace.get("task")).get("hash")
        return cast("dict[str, JsonValue]", {"trace": name, "task": task, **kept})

    def _finished(self, name: str | None) -> dict[str, Any]:
        errors = _list(self.head.get("errors"))
        trace = self.found.get(name or "")
        if trace is None:
            raise Unreachable(_why("the environment gave the attempt up", errors))
        if not trace.get("ok"):
            raise Unreachable(_why("the attempt failed", [*errors, *trace["errors"]]))
        return trace


def _why(what: str, errors: list[Any]) -> str:
    if not errors:
        return f"{what}; no reason was given"
    last = _object(errors[-1])
    return f"{what}: {last.get('type')}: {str(last.get('message'))[:1000]}"


def _value(reward: Any) -> float:
    match reward:
        case {"score": int() | float() as score, "weight": int() | float() as weight}:
            return float(score) * float(weight)
        case _:
            raise Unreachable(f"a reward is {reward!r}, no score with a weight")


def _object(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []
