"""Shows a trial on a terminal, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from preceptor_clients.contract.control_tokens import control_tokens
from preceptor_trainer.collect.labelling import Labelled
from preceptor_trainer.collect.rollouts import Attempt
from preceptor_trainer.run.needs.memory_plan import MemoryPlan, in_words
from preceptor_trainer.run.worked_rollout import choose
from preceptor_trainer.trial.finding import Finding, counted
from preceptor_trainer.trial.findings import success
from preceptor_trainer.trial.stages import NUM_BEST, Trial

MOST_TOKENS: Final = 24
"""Positions of one attempt that are shown token by token."""
MOST_PROMPT: Final = 1_500
"""Characters of a prompt that are shown."""


def show(trial: Trial, found: Sequence[Finding], memory: MemoryPlan, console: Console) -> None:
    """Prints every row, then what was found."""
    for _, group in groupby(trial.labelled, key=lambda row: row.attempt.rollout.group):
        console.print(_row(trial, list(group)))
    console.print(_summary(trial, memory))
    for finding in found:
        mark, style = ("mistake", "bold red") if finding.is_mistake else ("note", "bold yellow")
        console.print(Text(f"{mark:<8}", style).append(finding.what, "default"), soft_wrap=True)
        console.print(Text(f"{'':<8}{finding.remedy}", "dim"), soft_wrap=True)
    if not found:
        console.print(Text("nothing wrong was found", "bold green"))


def _row(trial: Trial, group: Sequence[Labelled]) -> RenderableType:
    rollout = group[0].attempt.rollout
    parts: list[RenderableType] = [
        Rule(escape(getattr(rollout.problem, "where", rollout.problem.id)), align="left"),
        _titled(f"prompt, {counted(len(rollout.prompt_ids), 'token')}"),
        _indented(_marked(trial, rollout.prompt_ids)),
        _titled("attempts"),
        _indented(_attempts(group)),
    ]
    chosen = choose(group)
    if chosen is not None:
        parts += _taught(trial, chosen)
    return Group(*parts)


def _titled(text: str) -> Text:
    return Text(text, "bold")


def _indented(shown: RenderableType) -> RenderableType:
    return Padding(shown, (0, 0, 1, 2))


def _marked(trial: Trial, ids: Sequence[int]) -> Text:
    """The tokens as text, control tokens in colour."""
    controls = control_tokens(trial.policy.tokenizer)
    text = Text()
    run: list[int] = []

    def flush() -> None:
        if run:
            text.append(_clipped(trial.policy.decode_token(run)))
            run.clear()

    for token in ids:
        if token in controls:
            flush()
            text.append(controls[token], "reverse cyan")
        else:
            run.append(token)
    flush()
    return text


def _clipped(text: str) -> str:
    if len(text) <= MOST_PROMPT:
        return text
    half = MOST_PROMPT // 2
    return f"{text[:half]} […{len(text) - MOST_PROMPT} characters…] {text[-half:]}"


def _attempts(group: Sequence[Labelled]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("reward", justify="right")
    table.add_column("response", ratio=2, overflow="fold")
    table.add_column("judged", ratio=2, overflow="fold")
    for row in group:
        attempt = row.attempt
        ended = "" if attempt.rollout.finish_reason == "stop" else " [cut off]"
        table.add_row(
            _reward(attempt),
            Text(attempt.rollout.response_text + ended),
            Text("\n".join(_said(attempt)) or "–"),
        )
    return table


def _reward(attempt: Attempt) -> Text:
    if attempt.score is None:
        return Text("–", "yellow")
    return Text(f"{attempt.score:g}", "green" if attempt.solved else "red")


def _said(attempt: Attempt) -> list[str]:
    return [
        f"{item.source}: {item.error or item.text}"
        for item in attempt.items
        if item.error or item.text
    ]


def _taught(trial: Trial, row: Labelled) -> list[RenderableType]:
    assert row.target is not None
    name = row.attempt.rollout.rollout_id
    view = next((t for t in trial.taught if t.student_rollout_id == name), None)
    parts: list[RenderableType] = []
    if view is not None:
        parts += [
            _titled(f"{view.teacher} reads, for the attempt below"),
            _indented(_marked(trial, view.prompt_ids)),
            _titled(f"{view.teacher} would answer by itself"),
            _indented(Text(view.attempt.rollout.response_text)),
        ]
    return [*parts, _titled("token by token"), _indented(_tokens(trial, row))]


def _tokens(trial: Trial, row: Labelled) -> Table:
    assert row.target is not None
    rollout = row.attempt.rollout
    credit = next(c for c in trial.result.credits if c.rollout_id == rollout.rollout_id)
    labelled_T = row.target.labelled_T()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("written")
    table.add_column("student's best")
    for part in row.target.components:
        table.add_column(f"{part.expert}'s best")
    table.add_column("cost", justify="right")
    for t, token in enumerate(rollout.response_ids[:MOST_TOKENS].tolist()):
        best = trial.best[rollout.rollout_id][t], trial.best_probs[rollout.rollout_id][t]
        table.add_row(
            Text(_glance(trial, token)),
            Text(_entries(trial, *best)),
            *(
                Text(_entries(trial, part.ids_TK[t], part.probs_TK[t]))
                if part.weight_T[t] > 0
                else Text("–")
                for part in row.target.components
            ),
            f"{credit.cost_T[t]:.2f}" if labelled_T[t] else "–",
        )
    left = len(rollout.response_ids) - MOST_TOKENS
    if left > 0:
        table.add_row(Text(f"… {counted(left, 'more token')}", "dim"))
    return table


def _entries(trial: Trial, ids: Sequence[int], probs: Sequence[float]) -> str:
    pairs = [(int(i), float(p)) for i, p in zip(ids, probs, strict=True) if i >= 0]
    return "  ".join(f"{_glance(trial, i)} {p:.0%}" for i, p in pairs[:NUM_BEST])


def _glance(trial: Trial, token: int) -> str:
    return trial.policy.decode_token([token]).replace("\n", "↵").replace(" ", "·") or f"#{token}"


def _summary(trial: Trial, memory: MemoryPlan) -> RenderableType:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in _figures(trial, memory):
        table.add_row(Text(name, "dim"), Text(value))
    return Group(Rule("together", align="left"), _indented(table))


def _figures(trial: Trial, memory: MemoryPlan) -> list[tuple[str, str]]:
    attempts = trial.attempts
    figures = [("the student solves", _share(success(attempts), len(attempts)))]
    for name in dict.fromkeys(t.teacher for t in trial.taught):
        answers = [t.attempt for t in trial.taught if t.teacher == name]
        figures.append((f"{name} solves", _share(success(answers), len(answers))))
    with_target = sum(row.target is not None for row in trial.labelled)
    sampling = trial.seconds.get("sampling", 0.0)
    figures += [
        ("loss", f"{trial.result.loss:.3f}"),
        ("attempts with a target", f"{with_target} of {len(attempts)}"),
        ("tokens a second", f"{trial.num_tokens / sampling:.0f}" if sampling else "–"),
        ("seconds", ", ".join(f"{name} {s:.1f}" for name, s in trial.seconds.items())),
        ("memory of the trainer", in_words(memory)),
    ]
    return figures


def _share(share: float | None, count: int) -> str:
    return "not judged" if share is None else f"{share:.0%} of {counted(count, 'answer')}"
