"""Chats of OpenAI's protocol as the student reads them: texts alone, the tools among them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

from preceptor_trainer.environments.environment import Unreachable


@dataclass(frozen=True)
class Seen:
    """One message, as far as two requests are compared by it."""

    role: str
    text: str
    calls: tuple[str, ...] = ()
    """Ids of the calls that it makes."""


def seen_in(body: dict[str, Any]) -> list[Seen]:
    """The messages of a request.

    Raises:
        Unreachable: one has something else than text.
    """
    return [_seen(message) for message in _objects(body.get("messages"))]


def opening_of(body: dict[str, Any], tools: list[str]) -> list[dict[str, str]]:
    """The chat that the student continues at first, with the tools at its end."""
    chat = [{"role": seen.role, "content": seen.text} for seen in seen_in(body)]
    if not chat:
        raise Unreachable("the environment asked the student with no message")
    if tools:
        chat[-1]["content"] = "\n".join([chat[-1]["content"], "Tools:", *tools])
    return chat


def tools_of(body: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Names of the tools, and each as JSON."""
    functions = [_function(tool) for tool in _objects(body.get("tools"))]
    return [str(f.get("name")) for f in functions], [json.dumps(f) for f in functions]


def text_of(value: Any) -> str:
    """The content of a message.

    Raises:
        Unreachable: it has a part that is no text.
    """
    match value:
        case None:
            return ""
        case str():
            return value
        case [*parts] if all(isinstance(part, dict) and "text" in part for part in parts):
            return "".join(str(cast("dict[str, Any]", part)["text"]) for part in parts)
        case _:
            raise Unreachable("the environment shows the student something else than text")


def _seen(message: dict[str, Any]) -> Seen:
    calls = tuple(str(call.get("id")) for call in _objects(message.get("tool_calls")))
    role = str(message.get("role"))
    return Seen("system" if role == "developer" else role, text_of(message.get("content")), calls)


def _function(tool: dict[str, Any]) -> dict[str, Any]:
    function: Any = tool.get("function", tool)
    return cast("dict[str, Any]", function) if isinstance(function, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    values = cast("list[Any]", value) if isinstance(value, list) else []
    return [cast("dict[str, Any]", one) for one in values if isinstance(one, dict)]
