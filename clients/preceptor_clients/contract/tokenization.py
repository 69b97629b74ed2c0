"""Ids of a text or a chat: what a service with a tokenizer of its own is asked and answers.

    POST /v1/tokenize   TokenizeCall -> TokenIds

Everywhere else ids travel, not text; this is for callers who have no tokenizer. Fields and defaults
are those of vLLM's `/tokenize`, but for `add_special_tokens`, which is off for texts too. Left out:
several texts in one call, tools, other chat templates, the way back from ids to text.
"""

from __future__ import annotations

from typing import Annotated, Final, Protocol, Self, runtime_checkable

from pydantic import Field, model_validator

from preceptor_clients.contract.arrays import Ints1
from preceptor_clients.contract.schemas import Answer, Flag, Message, Request, ServiceInfo

MAX_CHARACTERS: Final = 1 << 20
Text = Annotated[str, Field(max_length=MAX_CHARACTERS)]


class TokenizeCall(Request):
    """`POST /v1/tokenize` of a service: a text or a chat, not both."""

    prompt: Text | None = None
    """A text."""
    messages: tuple[Message, ...] = ()
    """A chat."""
    add_special_tokens: Flag = False
    """Start and end tokens, where the tokenizer has any; a chat's template writes its own."""
    add_generation_prompt: Flag = True
    """A chat ends where the assistant begins to write."""

    @model_validator(mode="after")
    def _text_or_chat(self) -> Self:
        if (self.prompt is None) == (not self.messages):
            raise ValueError("prompt: give either this or `messages`")
        num_characters = sum(len(message.content) for message in self.messages)
        if num_characters > MAX_CHARACTERS:
            raise ValueError(f"messages: {num_characters} characters are over {MAX_CHARACTERS}")
        return self


class TokenIds(Answer):
    """Reply to `TokenizeCall`; it may be longer than the context."""

    ids: Ints1
    """`[T]` ids below `vocab_size`."""


@runtime_checkable
class TokenizingService(Protocol):
    """Has a tokenizer."""

    def info(self) -> ServiceInfo: ...

    async def tokenize(self, call: TokenizeCall) -> TokenIds:
        """Ids of the text, or of the chat as the model's template writes it.

        Calls are not counted among `max_concurrency`: they must not wait for the model.

        Raises:
            Invalid: the template does not take these messages.
        """
        ...
