"""A trace as text for people: prompt and response with the token marked, then tables.

Masked numbers are shown as a dash. Steps are counted from 1 here, and from 0 in ids.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from preceptor_clients.contract.schemas import (
    FeedbackItem,
    GroupAttempt,
    Judgement,
    Prompt,
    Trace,
    TraceSource,
)
from preceptor_clients.kit.details import DASH, facts, tables

_SHOWN_ENTRIES: Final = 5
_LEFT, _RIGHT = "▶", "◀"

Speak = Callable[[Sequence[int]], str]


def draw(found: Trace, spell: Speak | None = None) -> RenderableType:
    """The whole trace; without `spell` tokens are shown as ids."""
    parts: list[RenderableType] = [
        _heading(found, spell),
        _block("prompt", Text(_prompt(found.prompt))),
        _block("response", _marked(found, spell)),
        _facts(found),
    ]
    for source in found.sources:
        parts.append(_source(source, found, spell))
        for item in source.feedback:
            parts += [_item(item), *_lists(item.details)]
    for judgement in found.judgements:
        parts += [_judgement(judgement), *_lists(judgement.item.details)]
    if found.group:
        parts.append(_group(found))
    return Group(*parts)


def _heading(found: Trace, spell: Speak | None) -> Text:
    return Text.assemble(
        ("student token ", "bold"),
        (_token(found.token_id, spell), "bold reverse"),
        f" at position {found.position} of {len(found.response_ids)}",
    )


def _prompt(prompt: Prompt) -> str:
    if not prompt.messages:
        return " ".join(str(i) for i in (() if prompt.ids is None else prompt.ids.tolist()))
    return "\n".join(f"{m.role}: {m.content}" for m in prompt.messages)


def _marked(found: Trace, spell: Speak | None) -> Text:
    """The response with the token between marks, which need no colours."""
    ids, at = [int(i) for i in found.response_ids], found.position
    if spell is None:
        words = [f"{_LEFT}{i}{_RIGHT}" if t == at else str(i) for t, i in enumerate(ids)]
        return Text(f"{found.response_text}\nids {' '.join(words)}")
    return Text.assemble(
        spell(ids[:at]),
        (f"{_LEFT}{_visible(spell([ids[at]]))}{_RIGHT}", "bold reverse"),
        spell(ids[at + 1 :]),
    )


def _block(title: str, text: Text) -> Table:
    table = Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 2))
    table.add_row(text)
    return table


def _facts(found: Trace) -> Table:
    consumed = ", ".join(_use(use) for use in found.consumed_by)
    return _rows(
        "the student's token",
        {
            "log-prob when it was drawn": _number(found.student_logprob),
            "drawn by the student": "yes" if found.owned else "no",
            "run, step": f"{found.run}, step {found.step + 1}",
            "rollout": found.rollout_id,
            "problem": found.problem_id,
            "weights": found.student_weights,
            "consumed by": consumed or DASH,
            **_credit(found),
        },
    )


def _credit(found: Trace) -> dict[str, str]:
    """What the last step that used the token made of it."""
    if found.target_id is None:
        return {"advantage (up: made more likely)": _number(found.credit)}
    credit = found.credit
    if credit is None and found.advantage is not None:  # an older gateway's, always a cost
        credit = 0.0 - found.advantage
    return {
        "cost (cross-entropy to the target, nats)": _number(found.cost),
        "future credit (up: made more likely)": _number(credit),
    }


def _use(use: str) -> str:
    lineage, _, step = use.rpartition("/")
    return f"step {int(step) + 1} of lineage {lineage}"


def _source(source: TraceSource, found: Trace, spell: Speak | None) -> RenderableType:
    asked = "" if source.inclusion is None else f", asked with chance {source.inclusion:.3g}"
    title = Text(f"expert {source.expert}, share {source.weight:.3g}, {source.kind}{asked}", "bold")
    origin = Text(
        f"version {source.expert_version}, weights {source.weights or DASH}, answer "
        f"{source.answer_id}\ncontext {source.context_hash or DASH}, template "
        f"{source.template_version or DASH}",
        style="dim",
        overflow="fold",
    )
    return Group(title, _opinion(source, found, spell), origin, Text())


def _opinion(source: TraceSource, found: Trace, spell: Speak | None) -> Table:
    """The expert's distribution at this position."""
    table = Table(box=SIMPLE)
    table.add_column("token")
    table.add_column("probability", justify="right")
    table.add_column("")
    for token, probability in source.entries[:_SHOWN_ENTRIES]:
        mark = "the student's" if token == found.token_id else ""
        table.add_row(Text(_token(token, spell)), f"{probability:.4f}", mark)
    shown = {token for token, _ in source.entries[:_SHOWN_ENTRIES]}
    if found.token_id not in shown and source.own_logprob is not None:
        own = f"{math.exp(source.own_logprob):.4f}"
        table.add_row(Text(_token(found.token_id, spell)), own, "the student's")
    table.add_row(Text("all others", style="dim"), _number(_rest(source)), "")
    return table


def _rest(source: TraceSource) -> float | None:
    """The probability of all entries that have no row."""
    if source.tail is None:
        return None
    return source.tail + sum(p for _, p in source.entries[_SHOWN_ENTRIES:])


def _item(item: FeedbackItem) -> Table:
    return _rows(f"feedback in its view: {item.kind}", _said(item) | facts(item.details))


def _said(item: FeedbackItem) -> dict[str, str]:
    return {
        "score": _score(item.score),
        "says": item.text or DASH,
        "from": f"{item.source}, version {item.version}",
        "id": item.id,
    }


def _judgement(judgement: Judgement) -> Table:
    """A feedback item of the rollout itself, and whether it counts."""
    item = judgement.item
    failed = {} if item.error is None else {"failed": item.error}
    by = f", by {judgement.superseded_by}" if judgement.superseded_by is not None else ""
    why = f": {judgement.state_reason}" if judgement.state_reason is not None else ""
    state = {"state": f"{judgement.state}{by}{why}"}
    return _rows(f"judgement: {item.kind}", _said(item) | failed | state | facts(item.details))


def _group(found: Trace) -> Table:
    """The attempts that the advantage compares."""
    title = Text(f"attempts of group {found.group_id}")
    table = Table(title=title, title_justify="left", box=SIMPLE)
    table.add_column("rollout", overflow="fold")
    table.add_column("score", justify="right")
    table.add_column("judged")
    table.add_column("")
    for attempt in found.group:
        mark = "this one" if attempt.rollout_id == found.rollout_id else ""
        table.add_row(Text(attempt.rollout_id), _score(attempt.score), _outcome(attempt), mark)
    return table


def _outcome(attempt: GroupAttempt) -> str:
    return DASH if attempt.solved is None else "solved" if attempt.solved else "failed"


def _score(score: float | None) -> str:
    return DASH if score is None else f"{score:g}"


def _lists(details: Mapping[str, Any]) -> Iterator[Table]:
    """A table for each list of mappings, such as the cases that an executor ran."""
    for listed in tables(details):
        table = Table(title=listed.name, title_justify="left", box=SIMPLE)
        for column in listed.columns:
            table.add_column(column, overflow="fold")
        for row in listed.rows:
            table.add_row(*map(Text, row))
        yield table


def _rows(title: str, values: Mapping[str, str]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE, show_header=False)
    table.add_column("", style="dim")
    table.add_column("", overflow="fold")
    for name, value in values.items():
        table.add_row(Text(name), Text(value))
    return table


def _token(token: int, spell: Speak | None) -> str:
    return str(token) if spell is None else f"{spell([token])!r} ({token})"


def _visible(text: str) -> str:
    return text.replace("\n", "↵") or "∅"


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.4f}"
