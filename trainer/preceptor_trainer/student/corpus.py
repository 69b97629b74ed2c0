"""The text that the student is pretrained on, made on the fly.

Four kinds of example, each rendered as it is at run time (compact template, chat template):

- `plain`: the problem alone. The answer is right, or with probability `wrong_share` a near miss,
  which makes the student imperfect.
- `trace`: the problem with the feedback text of a failed plausible attempt. Always right.
- `demo`: the problem with a right answer, in a different form where the language has one. Always
  right.
- `both`: a demonstration and the feedback of an attempt. Always right.

So the student can correct its own mistakes with feedback in view. No program in the corpus, right
or wrong, in a prompt or an answer, has a held-out or validation behaviour.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from preceptor_clients.contract.execution import KIND, feedback_text
from preceptor_clients.sdk.templates import COMPACT, Message
from preceptor_trainer.tasks.programming_by_example.behaviour import compiles
from preceptor_trainer.tasks.programming_by_example.language import mutate
from preceptor_trainer.tasks.programming_by_example.problems import (
    Problem,
    draw_behaviour,
    evaluate,
)
from preceptor_trainer.tasks.programming_by_example.universe import load_universe

Kind = Literal["plain", "trace", "demo", "both"]
KIND_SHARES: dict[Kind, float] = {"plain": 0.50, "trace": 0.36, "demo": 0.11, "both": 0.03}
PLAIN_ONLY: dict[Kind, float] = {"plain": 1.0}
FEATURE_SHARES = {1: 0.08, 2: 0.84, 3: 0.08}
"""A larger share of long programs than in the problems: they are many, and teach combination."""


@dataclass(frozen=True, kw_only=True)
class CorpusItem:
    """A feedback item of the corpus, in the form that templates read."""

    kind: str
    text: str
    expert_may_see: bool = True


@dataclass(frozen=True, kw_only=True)
class Example:
    """One training text; `programs` has every program text used for it."""

    kind: Kind
    messages: list[Message]
    response: str
    programs: tuple[str, ...]


def make_example(
    problem: Problem,
    rng: random.Random,
    wrong_share: float,
    kind_shares: Mapping[Kind, float] = KIND_SHARES,
) -> Example:
    """Draws a kind and builds the example; falls back to `plain` when no attempt fails."""
    kind = rng.choices(list(kind_shares), weights=list(kind_shares.values()))[0]
    if kind == "plain":
        return _plain(problem, rng, wrong_share)
    attempt = "" if kind == "demo" else draw_failed_attempt(problem, rng)
    demonstration = "" if kind == "trace" else rewrite(problem, rng)
    items = [CorpusItem(kind="demonstration", text=demonstration)] if demonstration else []
    if attempt:
        text = feedback_text(evaluate(attempt, problem))
        items.append(CorpusItem(kind=KIND, text=text))
    if not items:
        return _plain(problem, rng, wrong_share)
    return Example(
        kind=kind,
        messages=COMPACT.render(problem.messages, items),
        response=problem.reference,
        programs=tuple(p for p in (problem.reference, attempt, demonstration) if p),
    )


def _plain(problem: Problem, rng: random.Random, wrong_share: float) -> Example:
    wrong = draw_near_miss(problem, rng) if rng.random() < wrong_share else ""
    return Example(
        kind="plain",
        messages=list(problem.messages),
        response=wrong or problem.reference,
        programs=(problem.reference, *([wrong] if wrong else [])),
    )


def draw_near_miss(problem: Problem, rng: random.Random, num_draws: int = 4) -> str:
    """A program with one or two mistakes: the one of several draws that fits most shown pairs."""
    best, best_fit = "", -1
    for _ in range(num_draws):
        text = _slip(problem, rng)
        if text:
            report = evaluate(text, problem)
            fit = sum(c.outcome == "passed" for c in report.cases if c.visibility == "shown")
            if not report.solved and fit > best_fit:
                best, best_fit = text, fit
    return best


def _slip(problem: Problem, rng: random.Random) -> str:
    """A mutated program whose behaviour may be trained on, or an empty text."""
    program = mutate(problem.program, rng)
    if rng.random() < 0.2:
        program = mutate(program, rng)
    text = program.text()
    behaviour = load_universe().by_text.get(text)
    return text if behaviour is not None and behaviour.split == "train" else ""


def draw_failed_attempt(problem: Problem, rng: random.Random) -> str:
    """A plausible failed attempt: mostly a near miss, sometimes an unrelated or broken program."""
    draw = rng.random()
    if draw < 0.06:
        return break_syntax(problem.reference, rng)
    if draw < 0.18:
        stray = draw_behaviour("train", rng).texts[0]
        return "" if evaluate(stray, problem).solved else stray
    return draw_near_miss(problem, rng, num_draws=rng.choice((1, 4)))


def break_syntax(text: str, rng: random.Random) -> str:
    """Drops or doubles one character; empty when the result still compiles."""
    index = rng.randrange(len(text))
    broken = text[:index] + rng.choice(("", 2 * text[index])) + text[index + 1 :]
    return "" if compiles(broken) else broken


def rewrite(problem: Problem, rng: random.Random) -> str:
    """A right answer in a different form where the language has one, else the reference."""
    text = rng.choice(problem.behaviour.texts[:6])
    if not evaluate(text, problem).solved:
        # equal on all probes, but not on these inputs
        text = problem.reference
    if rng.random() < 0.3:
        name = rng.choice("aein")
        text = re.sub(r"\bv\b", name, text)
    return text
