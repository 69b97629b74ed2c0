"""Prompts that are too long: left out, or cut, and counted.

A prompt longer than the model's positions would be computed all the same, with positions that the
model has never seen; its responses would look like a bad policy. Cutting shortens the last user
turn from its beginning, so that feedback sources and experts see the same question as the student.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from preceptor_trainer.tasks.task import OtherChat, Problem

WhenLonger: TypeAlias = Literal["skip", "cut"]
PromptIds: TypeAlias = Callable[[Sequence[dict[str, str]]], Sequence[int]]
"""A chat as the ids that the student continues."""


class NoPromptFits(ValueError):
    """Every prompt of a step, or of an evaluation, is too long."""


@dataclass(frozen=True, kw_only=True)
class PromptLimit:
    """The longest prompt that the student is given."""

    max_tokens: int
    when_longer: WhenLonger = "skip"

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise NoPromptFits(
                f"max_prompt: {self.max_tokens} tokens are left for a prompt; responses "
                "(`sampling.max_new_tokens`) must leave room in the model's positions"
            )


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The problems that fit, in order."""

    problems: list[Problem]
    num_skipped: int = 0
    num_cut: int = 0

    @property
    def metrics(self) -> dict[str, float]:
        """Counts by name; empty where every prompt fits."""
        counts = {"prompts/skipped": self.num_skipped, "prompts/cut": self.num_cut}
        return {name: float(count) for name, count in counts.items() if count}


def limit_of(
    positions: int | None, *, max_prompt: int | None, max_new_tokens: int, when_longer: WhenLonger
) -> PromptLimit | None:
    """The limit that leaves room for a whole response; None where there is none."""
    room = None if positions is None else positions - max_new_tokens
    limits = [n for n in (room, max_prompt) if n is not None]
    return PromptLimit(max_tokens=min(limits), when_longer=when_longer) if limits else None


def fitted(
    problems: Sequence[Problem],
    prompt_ids: PromptIds,
    limit: PromptLimit | None,
) -> Fitted:
    """The problems whose prompts fit, cut where the limit says so.

    Args:
        problems: In order.
        prompt_ids: A chat as the ids that the student continues.
        limit: None keeps all.

    Raises:
        NoPromptFits: no problem is left.
    """
    if limit is None:
        return Fitted(problems=list(problems))
    kept: list[Problem] = []
    lengths = [len(prompt_ids(problem.messages)) for problem in problems]
    num_cut = 0
    for problem, length in zip(problems, lengths, strict=True):
        if length <= limit.max_tokens:
            kept.append(problem)
        elif limit.when_longer == "cut":
            shorter = _cut(problem, prompt_ids, limit.max_tokens)
            num_cut += shorter is not None
            kept += [] if shorter is None else [shorter]
    if problems and not kept:
        raise NoPromptFits(
            f"max_prompt: none of {len(problems)} prompts has at most {limit.max_tokens} tokens, "
            f"the longest has {max(lengths)}; set long_prompts to `cut`, raise max_prompt, or "
            "lower sampling.max_new_tokens"
        )
    return Fitted(problems=kept, num_skipped=len(problems) - len(kept), num_cut=num_cut)


def _cut(
    problem: Problem,
    prompt_ids: PromptIds,
    max_tokens: int,
) -> Problem | None:
    """The problem with the longest end of its last user turn that fits, by bisection.

    None where it does not fit without that turn's text either.
    """
    chat = list(problem.messages)
    at = max((i for i, m in enumerate(chat) if m["role"] == "user"), default=None)
    if at is None:
        return None
    text = chat[at]["content"]

    def shortened(num_characters: int) -> list[dict[str, str]]:
        end = text[len(text) - num_characters :]
        return [*chat[:at], chat[at] | {"content": end}, *chat[at + 1 :]]

    low, high = 0, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        fits = len(prompt_ids(shortened(middle))) <= max_tokens
        low, high = (middle, high) if fits else (low, middle)
    return OtherChat(original=problem, messages=shortened(low)) if low else None
