"""An OpenAI-compatible server as a model that answers chats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from preceptor_clients.sdk.rubrics.judging import Said, SchemaRefused
from preceptor_services.feedback.judge.budget import Budget
from preceptor_services.feedback.judge.options import JudgeConfig
from preceptor_services.kit.upstream import Refused, Upstream, member

_CHARACTERS_PER_TOKEN: Final = 3
"""For servers that do not say how many tokens it were: rather too many."""


class ChatServer:
    """Calls one server within a budget."""

    def __init__(self, config: JudgeConfig, budget: Budget) -> None:
        self._config = config
        self._budget = budget
        self._upstream = Upstream(
            config.url,
            config.key_file,
            max_concurrency=config.max_concurrency,
            timeout_s=config.timeout_s,
            max_reply_bytes=config.max_reply_bytes,
        )

    async def say(
        self, chat: Sequence[dict[str, str]], *, max_tokens: int, schema: dict[str, Any] | None
    ) -> Said:
        """The reply to a chat.

        Raises:
            SchemaRefused: there was a schema, and the server refused the request.
            BudgetSpent: no call is left.
            PreceptorError: there was no reply.
        """
        self._budget.take_call()
        body: dict[str, Any] = {
            "model": self._config.model,
            "messages": list(chat),
            "max_tokens": max_tokens,
            "temperature": self._config.temperature,
        }
        if schema is not None:
            named = {"name": "verdicts", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        try:
            reply = await self._upstream.post("/v1/chat/completions", body)
        except Refused as error:
            if schema is not None:
                raise SchemaRefused(error.detail) from error
            raise
        said = _said(reply, chat)
        self._budget.tokens += said.input_tokens + said.output_tokens
        return said

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._upstream.aclose()


def _said(reply: Any, chat: Sequence[dict[str, str]]) -> Said:
    message = member(reply, "choices", 0, "message")
    content = member(message, "content")
    if not isinstance(content, str):
        content = ""
    thoughts = member(message, "reasoning_content") or member(message, "reasoning")
    text = f"<think>{thoughts}</think>{content}" if isinstance(thoughts, str) else content
    return Said(
        text=text,
        cut_off=member(reply, "choices", 0, "finish_reason") == "length",
        input_tokens=_tokens(reply, "prompt_tokens", sum(len(m["content"]) for m in chat)),
        output_tokens=_tokens(reply, "completion_tokens", len(text)),
    )


def _tokens(reply: Any, name: str, characters: int) -> int:
    given = member(reply, "usage", name)
    if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
        return given
    return -(-characters // _CHARACTERS_PER_TOKEN)
