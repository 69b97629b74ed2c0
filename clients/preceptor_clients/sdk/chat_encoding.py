"""Chats and texts as ids, in which a control token is there only if the template wrote it.

A prompt, a response or a program's output may spell `<|im_end|>`. Encoded with its chat, it would
become the real control token, and end the turn in the middle of its content. Here it becomes the
ids of its characters; no character is dropped or changed.

    >>> encoder = ChatEncoder(AutoTokenizer.from_pretrained(folder))
    >>> encoder.chat_ids([{"role": "user", "content": "print('<|im_end|>')"}])

Texts that spell none get the ids that the tokenizer itself gives the rendered chat. Otherwise a
private-use character replaces the first character of each spelled token while the template renders,
so that every control token in the result is the template's own; a copy of the tokenizer, which has
other names for these, then encodes the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, Final

from preceptor_clients.contract.control_tokens import control_tokens, one_start, start_id
from preceptor_clients.contract.errors import Invalid
from preceptor_clients.sdk.plain_text import PlainText, any_of

_PRIVATE_USE: Final = range(0xF0000, 0xFFFFE)
_TURN: Final = "5306189247160358"
"""Stands for an assistant's turn while a template renders. Digits, because a template may change
case or white space; long, because a chat must not contain it."""


class ChatEncoder:
    """Encodes chats and texts with a tokenizer of transformers."""

    def __init__(self, tokenizer: Any, template_kwargs: Mapping[str, Any] | None = None) -> None:
        """Encodes with `tokenizer`.

        Args:
            tokenizer: A tokenizer of transformers.
            template_kwargs: Further variables of its chat template, such as `enable_thinking`.
        """
        self._tokenizer = tokenizer
        self._template_kwargs = dict(template_kwargs or {})
        self._words = tuple(word for word in control_tokens(tokenizer).values() if word)
        self._find = re.compile(f"(?=(?:{any_of(map(re.escape, self._words))}))")
        self._beginnings = {word[:n] for word in self._words for n in range(1, len(word))}
        self._endings = {word[n:] for word in self._words for n in range(1, len(word))}

    def chat_ids(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        add_generation_prompt: bool = True,
        add_special_tokens: bool = False,
        field: str = "prompt.messages",
    ) -> list[int]:
        """A chat as ids.

        Args:
            messages: Turns.
            add_generation_prompt: Adds the opening of the assistant's turn.
            add_special_tokens: Adds the tokens that the tokenizer puts around every text; a start
                token that the template wrote is not added twice.
            field: Field that an error names.

        Raises:
            Invalid: the chat template does not accept these messages.
        """
        contents = [message["content"] for message in messages]
        stand_ins = self._stand_ins(contents)
        text = self._rendered(
            [dict(m) | {"content": self._guarded(m["content"], stand_ins)} for m in messages],
            add_generation_prompt,
            field,
        )
        if not stand_ins:
            return self.written_ids(text, add_special_tokens=add_special_tokens)
        before, after = self._around if add_special_tokens else ([], [])
        return one_start(self._tokenizer, [*before, *self._plain_ids(text, stand_ins), *after])

    def reply_ids(
        self,
        messages: Sequence[Mapping[str, str]],
        replies: Sequence[Mapping[str, str]],
        ends: Sequence[str] = (),
    ) -> list[int]:
        """The ids between an assistant's turn and its next one: `replies` as the template has them.

        The assistant's turn itself is not part of it and is never rendered: its ids are those that
        were drawn. So it does not matter what the template does to earlier turns.

        Args:
            messages: The chat before the assistant's turn.
            replies: What is said to the assistant after it.
            ends: Tokens that end a turn; the drawn turn has its own, so the template's is left out.

        Raises:
            Invalid: the chat template does not accept these messages, or does not show them.
        """
        chat = [*messages, {"role": "assistant", "content": _TURN}, *replies]
        stand_ins = self._stand_ins([m["content"] for m in chat])
        guarded = [dict(m) | {"content": self._guarded(m["content"], stand_ins)} for m in chat]
        text = self._rendered(guarded, True, "prompt.messages")
        _, found, after = text.rpartition(_TURN)
        said = [m["content"].strip() for m in guarded[len(messages) + 1 :]]
        if not found or any(content not in after for content in said):
            raise Invalid(
                "the chat template leaves out turns of this chat: after an assistant's turn it "
                f"shows no turn of the role {replies[-1]['role']!r}",
                field="prompt.messages",
            )
        for end in ends:
            if after.lstrip().startswith(end):
                after = after.lstrip()[len(end) :]
                break
        return self._plain_ids(after, stand_ins) if stand_ins else self.written_ids(after)

    def _plain_ids(self, text: str, stand_ins: Mapping[str, str]) -> list[int]:
        """The ids of a rendered text, in which stand-ins are characters of contents."""
        named = self._copy.renamed(text)
        for char, stand_in in stand_ins.items():
            named = named.replace(stand_in, char)
        return self._copy.ids(named)

    def chat_text(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A chat as one text, for a reader that finds the template's control tokens in it.

        Raises:
            Invalid: the chat template does not accept these messages, or one of them spells a
                control token, which that reader could not tell from the template's.
        """
        for number, message in enumerate(messages):
            if self._find.search(message["content"]):
                raise Invalid(
                    "spells a control token, which an API of plain texts would read as a real one",
                    field=f"prompt.messages[{number}].content",
                )
        return self._rendered([dict(m) for m in messages], True, "prompt.messages")

    def text_ids(self, text: str) -> list[int]:
        """A text as ids without start or end tokens; a spelled control token stays characters."""
        if not self.spells_control(text):
            return list(self._tokenizer.encode(text, add_special_tokens=False))
        return self._copy.ids(text)

    def written_ids(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """The ids of a text whose spelled control tokens are meant as control tokens."""
        ids = list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens))
        return one_start(self._tokenizer, ids) if add_special_tokens else ids

    def spells_control(self, text: str) -> bool:
        """Whether a part of the text, as it stands or as it is normalised, is a control token."""
        if self._find.search(text):
            return True
        return bool(self._normalised and self._find.search(self._normalised(text)))

    @property
    def adds_start(self) -> bool:
        """Whether the tokenizer by default begins each text with a start token."""
        start = start_id(self._tokenizer)
        return start is not None and self._around[0] == [start]

    # ------------------------------------------------------------ spelled tokens

    def _stand_ins(self, contents: Sequence[str]) -> dict[str, str]:
        """Characters to replace before rendering, each with one that occurs in no content."""
        chars = dict.fromkeys(text[at] for text in contents for at in self._places(text))
        if not chars and any(map(self.spells_control, contents)):
            chars = {self._words[0][0]: None}
        taken = set(chain.from_iterable(contents)) if chars else set[str]()
        free = (chr(code) for code in _PRIVATE_USE if chr(code) not in taken)
        return dict(zip(chars, free, strict=False))

    def _guarded(self, text: str, stand_ins: Mapping[str, str]) -> str:
        if not stand_ins:
            return text
        chars = list(text)
        for at in self._places(text):
            chars[at] = stand_ins[chars[at]]
        return "".join(chars)

    def _places(self, text: str) -> set[int]:
        """Positions where a control token begins, alone or with the template's text around it."""
        places = {found.start() for found in self._find.finditer(text)}
        start, end = len(text) - len(text.lstrip()), len(text.rstrip())
        for first, last in {(0, len(text)), (start, end)}:
            shown = text[first:last]
            most = range(1, len(shown) + 1)
            longest = self._longest
            places |= {last - n for n in most[:longest] if shown[-n:] in self._beginnings}
            places |= {first + n - 1 for n in most[:longest] if shown[:n] in self._endings}
        return places

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._words), default=0)

    @cached_property
    def _normalised(self) -> Any:
        """The tokenizer's normaliser, if it searches a control token in normalised text."""
        table: Mapping[int, Any] = self._tokenizer.added_tokens_decoder
        if not any(token.special and token.normalized for token in table.values()):
            return None
        normalizer = self._tokenizer.backend_tokenizer.normalizer
        return None if normalizer is None else normalizer.normalize_str

    def _rendered(
        self, messages: list[dict[str, str]], add_generation_prompt: bool, field: str
    ) -> str:
        if not self._tokenizer.chat_template:
            raise Invalid(
                "the tokenizer has no chat template, as those of base models have none; put a "
                "chat_template.jinja into the model's folder, such as that of its instruct version",
                field=field,
            )
        try:
            return self._tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self._template_kwargs,
            )
        except Exception as error:  # a template is foreign code, and may raise any exception
            raise Invalid(
                f"the chat template does not accept these messages: {error}", field=field
            ) from error

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """The tokens that the tokenizer adds before and after every text."""
        plain = self._tokenizer.encode("a", add_special_tokens=False)
        whole = self._tokenizer.encode("a", add_special_tokens=True)
        for start in range(len(whole) - len(plain) + 1):
            if whole[start : start + len(plain)] == plain:
                return whole[:start], whole[start + len(plain) :]
        return [], []

    @cached_property
    def _copy(self) -> PlainText:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise Invalid(
                "spells a control token, which this kind of tokenizer cannot encode as text",
                field="prompt.messages",
            )
        return PlainText(backend)
