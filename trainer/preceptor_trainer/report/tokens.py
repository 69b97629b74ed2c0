"""The worked rollout, token by token: what was written, what each expert would write, both terms.

Future credit is minus the advantage of the loss: what followed the token, compared with what
followed at the same place in the siblings. Positive credit makes the token more likely, so that up
is good in the picture.
"""

import math
from dataclasses import dataclass

from preceptor_trainer.report.run_files import Opinion, WorkedRollout, WorkedToken
from preceptor_trainer.report.wording import one_glance, percent, signed

NUM_ENTRIES = 3
MOST_DRAWN = 96
"""Tokens in the picture; the table has all."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One token that the expert might write."""

    text: str
    prob: str
    share: float
    """Of the bar, in per cent."""
    own: bool
    """Whether it is the token that the student wrote."""


@dataclass(frozen=True, kw_only=True)
class Guess:
    """What one expert would write."""

    share: str
    """Its share of the target here."""
    entries: tuple[Entry, ...]
    own_prob: str | None
    """Given only where the expert's best tokens do not include the student's."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One token of the picture; bars are in per cent of their room."""

    position: int
    text: str
    student_prob: str
    labelled: bool
    owned: bool
    focus: bool
    cost: str
    cost_bar: float
    heat: int
    """Cost in five steps, for colour."""
    credit: str
    credit_bar: float
    direction: str
    """`up` for more likely, `down` for less likely, `none` without credit."""
    guesses: tuple[Guess | None, ...]
    """One for each expert; None where it has no share of the target."""


def cells(worked: WorkedRollout) -> list[Cell]:
    """Every token of the worked rollout, on scales that are common to all."""
    most_cost = max((t.cost or 0.0 for t in worked.tokens), default=0.0) or 1.0
    most_credit = max((abs(t.advantage or 0.0) for t in worked.tokens), default=0.0) or 1.0
    return [
        _cell(token, position, position == worked.focus, most_cost, most_credit)
        for position, token in enumerate(worked.tokens)
    ]


def has_credit(worked: WorkedRollout) -> bool:
    """Whether the run's objective has a future term that reached this rollout."""
    return any(token.advantage for token in worked.tokens)


def _cell(
    token: WorkedToken, position: int, focus: bool, most_cost: float, most_credit: float
) -> Cell:
    credit = -(token.advantage or 0.0)
    relative_cost = (token.cost or 0.0) / most_cost
    return Cell(
        position=position,
        text=one_glance(token.text),
        student_prob=probability(math.exp(token.student_logprob)),
        labelled=token.labelled,
        owned=token.owned,
        focus=focus,
        cost="–" if token.cost is None else f"{token.cost:.2f}",
        cost_bar=100 * relative_cost,
        heat=min(4, int(5 * relative_cost)),
        credit="–" if token.advantage is None else signed(credit, 2),
        credit_bar=100 * abs(credit) / most_credit,
        direction="none" if credit == 0 else "up" if credit > 0 else "down",
        guesses=tuple(None if o is None else _guess(o, token.text) for o in token.opinions),
    )


def _guess(opinion: Opinion, written: str) -> Guess:
    best = opinion.entries[:NUM_ENTRIES]
    is_known = any(text == written for text, _ in best)
    own_prob = opinion.own_prob
    return Guess(
        share=probability(opinion.weight),
        entries=tuple(
            Entry(
                text=one_glance(text),
                prob=probability(prob),
                share=100 * min(prob, 1.0),
                own=text == written,
            )
            for text, prob in best
        ),
        own_prob=None if is_known or own_prob is None else probability(own_prob),
    )


def probability(prob: float) -> str:
    """99 %, 4 %, <1 %"""
    return f"<{percent(0.01, 0)}" if 0 < prob < 0.005 else percent(prob, 0)
