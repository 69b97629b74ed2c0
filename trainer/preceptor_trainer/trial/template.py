"""What a chat template does to a chat, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from preceptor_clients.contract.control_tokens import start_id
from preceptor_trainer.trial.finding import Finding, counted

_QUESTION: Final = "What is the question?"
_ANSWER: Final = "This is the answer."
_MARKER: Final = re.compile(r"<\|[^<>|\s]+\|>|<(?:start|end)_of_\w+>|</?s>")
"""How templates spell control tokens; `[INST]` and the like are often ordinary text."""


def template_findings(
    tokenizer: Any, variables: Mapping[str, Any], end_ids: Collection[int]
) -> list[Finding]:
    """Faults of the tokenizer's chat template.

    Args:
        tokenizer: A tokenizer of transformers.
        variables: Further variables of the template.
        end_ids: The ids that end a response.
    """

    def rendered(*turns: str, opens: bool) -> str:
        roles = ("user", "assistant")
        chat = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]
        return tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=opens, **variables
        )

    found: list[Finding] = []
    closed, opened = rendered(_QUESTION, opens=False), rendered(_QUESTION, opens=True)
    if _QUESTION not in opened:
        found.append(
            Finding(
                "the chat template leaves the user's text out",
                "take the template that the model was trained with (`chat_template.jinja` of its "
                "folder)",
            )
        )
    if closed == opened:
        found.append(
            Finding(
                "the chat template does not open the assistant's turn, so the student goes on in "
                "the user's",
                "take a template that honours `add_generation_prompt`",
            )
        )
    foreign = sorted({word for word in _MARKER.findall(opened) if _num_ids(tokenizer, word) > 1})
    if foreign:
        found.append(
            Finding(
                f"the chat template writes {', '.join(foreign)}, which this tokenizer does not "
                "know as tokens: it is the template of another model",
                "take the template of the model itself (`chat_template.jinja` of its folder)",
            )
        )
    if not foreign and not _ends(tokenizer, rendered(_QUESTION, _ANSWER, opens=False), end_ids):
        found.append(
            Finding(
                "the chat template ends an answer with a token that is not an end token of the "
                "model, so responses may not stop",
                "add that token to `eos_token_id` in the model's generation_config.json",
            )
        )
    return found


def _num_ids(tokenizer: Any, word: str) -> int:
    return len(tokenizer.encode(word, add_special_tokens=False))


def _ends(tokenizer: Any, rendered: str, end_ids: Collection[int]) -> bool:
    """Whether an end token follows the answer; true where nothing follows it."""
    after = rendered.rpartition(_ANSWER)[2].strip()
    if not after:
        return True
    return tokenizer.encode(after, add_special_tokens=False)[0] in end_ids


def start_findings(tokenizer: Any, prompts: Sequence[Sequence[int]]) -> list[Finding]:
    """Prompts with two start tokens."""
    start = start_id(tokenizer)
    doubled = [ids for ids in prompts if start is not None and list(ids[:2]) == [start, start]]
    if not doubled:
        return []
    return [
        Finding(
            f"{counted(len(doubled), 'prompt')} of {len(prompts)} begin with two start tokens",
            "take the start token out of the chat template, or out of the data",
        )
    ]


def rendered_findings(
    words: Collection[str], chats: Sequence[Sequence[Mapping[str, str]]]
) -> list[Finding]:
    """Rows whose text begins with a spelled control token: chats that were rendered before.

    Args:
        words: The tokenizer's control tokens, spelled.
        chats: The chats of the rows.
    """
    spelled = [
        word
        for chat in chats
        for word in words
        if word and any(message["content"].lstrip().startswith(word) for message in chat)
    ]
    if not spelled:
        return []
    return [
        Finding(
            f"rows begin with {', '.join(sorted(set(spelled)))}: a text that was rendered with a "
            "chat template before is rendered a second time, and its control tokens are read as "
            "ordinary characters",
            "give the plain text as `prompt`, or the turns as `messages`",
        )
    ]
