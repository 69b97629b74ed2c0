"""One choice of a chat or completion API's reply, read as a continuation.

A continuation has a text and a finish reason. Where the text is in another field than the content
(reasoning, a refusal, a tool call), or reasoning came before it, the reply continues another state
than the queried one: it does not count as a draw, and never as a draw of the end token. An unknown
finish reason is refused, since it decides whether the end token was drawn.
"""

from __future__ import annotations

from typing import Any, Final, cast

from preceptor_clients.contract.errors import ServiceFailed
from preceptor_services.experts.remote.drawing.retokenizing import Drawn
from preceptor_services.kit.upstream import member

_ENDS: Final = frozenset(
    {"stop", "end", "ended", "eos", "eot", "eos_token", "end_token", "stop_token", "stop_sequence"}
    | {"end_turn", "end_of_turn", "end_of_text", "endoftext", "end_of_sequence"}
    | {"complete", "completed", "done", "finished", "stop_str", "matched_stop"}
)
_CUTS: Final = frozenset(
    {"length", "max_tokens", "max_length", "max_new_tokens", "max_output_tokens", "limit"}
    | {"max_completion_tokens", "max_token", "max_tokens_reached", "token_limit", "incomplete"}
    | {"model_length", "context_length", "max_context_length", "context_window_exceeded"}
    | {"model_context_window_exceeded", "context_length_exceeded", "length_capped"}
)
_NO_TEXT: Final = frozenset(
    {"content_filter", "safety", "refusal", "recitation", "blocklist", "prohibited_content", "spii"}
    | {"language", "tool_calls", "tool_call", "tool_use", "function_call", "pause_turn"}
)
"""Finish reasons other than the end of the model's text; such a reply is not a continuation."""
_ELSEWHERE: Final = (
    *("reasoning_content", "reasoning", "reasoning_details", "reasoning_text"),
    *("thinking", "thinking_blocks", "thoughts", "refusal", "tool_calls", "function_call", "audio"),
)


def continuation(choice: Any) -> Drawn:
    """A choice as a draw, or the reason why it is not one.

    Raises:
        ServiceFailed: it has no text at all, or an unknown finish reason.
    """
    word = _word(member(choice, "finish_reason"))
    elsewhere = _elsewhere(choice)
    if elsewhere is None and word in _NO_TEXT:
        elsewhere = f"finish_reason {word}"
    if elsewhere is not None:
        return Drawn("", False, elsewhere)
    if word not in _ENDS and word not in _CUTS:
        raise ServiceFailed(
            f"finish_reason: unknown value {member(choice, 'finish_reason')!r}, so it is not known "
            "whether the text ended or was cut"
        )
    ended = word in _ENDS
    text = _text(choice)
    # Some APIs write null where the model ended without a token.
    if text is None and ended:
        text = ""
    if text is None:
        raise ServiceFailed("choices: a continuation has no text")
    return Drawn(text, ended)


def reasoned_tokens(reply: Any) -> int:
    """Number of hidden reasoning tokens in the reply; 0 where it has no such count."""
    for details in ("completion_tokens_details", "output_tokens_details"):
        found = member(reply, "usage", details, "reasoning_tokens")
        if isinstance(found, int) and found > 0:
            return found
    return 0


def _word(reason: Any) -> str:
    """A finish reason in a common spelling, for `STOP`, `FINISH_REASON_STOP`, `end-turn`."""
    if isinstance(reason, dict):
        reason = member(reason, "type")
    if not isinstance(reason, str):
        return ""
    return reason.strip().lower().replace("-", "_").removeprefix("finish_reason_")


def _elsewhere(choice: Any) -> str | None:
    """The first other field than the content that is not empty."""
    for place in (member(choice, "message"), choice):
        for name in _ELSEWHERE:
            if member(place, name):
                return name
    for part in _parts(choice):
        if _part_text(part) is None:
            return f"content of type {member(part, 'type')}"
    return None


def _text(choice: Any) -> str | None:
    content = member(choice, "message", "content")
    if isinstance(content, list):
        return "".join(_part_text(part) or "" for part in _parts(choice))
    text = member(choice, "text") if content is None else content
    return text if isinstance(text, str) else None


def _parts(choice: Any) -> list[Any]:
    content = member(choice, "message", "content")
    return cast("list[Any]", content) if isinstance(content, list) else []


def _part_text(part: Any) -> str | None:
    kind, text = member(part, "type"), member(part, "text")
    return text if kind in ("text", "output_text") and isinstance(text, str) else None
