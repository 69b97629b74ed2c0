"""Continuations of a text, from an OpenAI-compatible API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from preceptor_clients.contract.errors import ServiceFailed
from preceptor_services.experts.remote.drawing.replies import continuation, reasoned_tokens
from preceptor_services.experts.remote.drawing.retokenizing import Drawn
from preceptor_services.kit.upstream import Upstream, member

_CONTINUE: Final = {"continue_final_message": True, "add_generation_prompt": False}


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """Requests continuations from one model of one API."""

    upstream: Upstream
    model: str
    api: Literal["chat", "completions"]
    message_fields: dict[str, Any]
    body_fields: dict[str, Any] | None
    draw_tokens: int

    async def draw(self, turns: list[dict[str, str]] | str, prefix: str, num: int) -> list[Drawn]:
        """`num` continuations at temperature 1.

        Args:
            turns: Messages, or a text for plain completions.
            prefix: The assistant's text so far.
            num: Number of continuations.

        Raises:
            ServiceFailed: the reply has fewer texts, or an unknown finish reason.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": self.draw_tokens,
            "temperature": 1.0,
            "top_p": 1.0,
        }
        if num > 1:
            body["n"] = num
        if isinstance(turns, str):
            path, body = "/v1/completions", body | {"prompt": turns + prefix}
            body |= self.body_fields or {}
        else:
            path, body = "/v1/chat/completions", body | self._chat(turns, prefix)
        reply = await self.upstream.post(path, body)
        choices = cast("list[Any]", member(reply, "choices") or [])
        found = [continuation(choice) for choice in choices]
        if reasoned_tokens(reply):
            found = [Drawn("", False, "reasoning that is not shown") for _ in found]
        if len(found) != num:
            raise ServiceFailed(
                f"requested {num} draws, got {len(found)}; for an API without `n` set "
                "draws_per_call = 1"
            )
        return found

    def _chat(self, turns: list[dict[str, str]], prefix: str) -> dict[str, Any]:
        if not prefix:
            return {"messages": turns}
        begun = {"role": "assistant", "content": prefix} | self.message_fields
        fields = _CONTINUE if self.body_fields is None else self.body_fields
        return {"messages": [*turns, begun]} | fields
