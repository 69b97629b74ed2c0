"""The report page: `RUN_DIR/report.html`, one file that needs nothing else.

The page runs no script and loads nothing: its policy forbids both, because prompts and responses
are untrusted text. Everything in it is escaped by the template engine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from preceptor_clients.cli.paste import pasted
from preceptor_clients.kit import details
from preceptor_clients.kit.files import write_whole
from preceptor_trainer.kit.flatten import flatten
from preceptor_trainer.report import answers, tokens, wording
from preceptor_trainer.report.charts import SMALL_CURVES, SOLVE_RATE, Chart, draw, window_of
from preceptor_trainer.report.figures import write_figures
from preceptor_trainer.report.run_files import Interval, Run, Summary, load_run
from preceptor_trainer.run.watching.metrics_log import MetricsLine

REPORT_FILE = "report.html"
MOST_TABLE_ROWS = 40
_IN_VIEW = ("with_feedback", "with_demonstration")


@dataclass(frozen=True, kw_only=True)
class Span:
    """An interval on an axis from 0 to 100 %."""

    at: float
    left: float
    width: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """pass@k before and after."""

    name: str
    meaning: str
    before: str
    after: str
    gain: str
    verdict: wording.Verdict
    interval: str
    detail: str
    before_span: Span
    after_span: Span


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A share of the run's time."""

    name: str
    duration: str
    share: float


@dataclass(frozen=True, kw_only=True)
class StepTable:
    """The numbers behind the curves."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str


def write_report(run_dir: Path) -> Path:
    """Writes the page and the figures of a finished run; returns the page's path.

    Raises:
        ValueError: the run has not finished, or one of its files is not valid.
    """
    run = load_run(run_dir)
    write_figures(run, run_dir / "figures")
    return write_whole(run_dir / REPORT_FILE, render(run))


def render(run: Run) -> str:
    """The page as text."""
    template = _environment().get_template("report.html.j2")
    return template.render(page_values(run))


def page_values(run: Run) -> dict[str, Any]:
    """What the template shows, by name."""
    summary, worked = run.summary, run.worked
    cells = tokens.cells(worked) if worked else []
    return {
        "summary": summary,
        "story": wording.story(summary, feedback_in_view=_feedback_in_view(run.metrics)),
        "against_siblings": _baseline(summary) != "none",
        "results": [_result(summary, k) for k in sorted(summary.gain.pass_at)],
        "facts": _facts(summary),
        "curve": draw(SOLVE_RATE, run.metrics),
        "small_curves": _small_curves(run.metrics),
        "window": window_of(len(run.metrics)),
        "steps_table": _steps_table(run.metrics),
        "worked": worked,
        "is_mixture": worked is not None and len(worked.experts) > 1,
        "trace_command": _trace_command(run),
        "cells": cells,
        "drawn": cells[: tokens.MOST_DRAWN],
        "has_credit": worked is not None and tokens.has_credit(worked),
        "answers": answers.tables(run.answers),
        "phases": _phases(summary),
        "settings": sorted(flatten(summary.config).items()),
    }


def _trace_command(run: Run) -> str | None:
    """The command with the absolute path of the folder, so that it works in any folder."""
    target = run.summary.trace_target
    return None if target is None else pasted("trace", target, "--run-dir", run.folder.resolve())


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("preceptor_trainer.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        "facts": details.facts,
        "tables": details.tables,
        "readable": wording.readable,
        "one_glance": wording.one_glance,
        "percent": wording.percent,
        "duration": wording.duration,
        "count": wording.count,
        "outcome": wording.outcome,
    }
    environment.filters.update(filters)
    return environment


def _result(summary: Summary, k: int) -> Result:
    before, after = summary.before.pass_at[k], summary.after.pass_at[k]
    gain = summary.gain.pass_at[k]
    return Result(
        name=f"pass@{k}",
        meaning="right at the first try" if k == 1 else f"right at least once in {k} tries",
        before=f"{before.mean * 100:.1f}",
        after=f"{after.mean * 100:.1f}",
        gain=f"{wording.points(gain.mean)} points",
        verdict=wording.verdict(gain),
        interval=f"{wording.points(gain.low)} to {wording.points(gain.high)}",
        detail=(
            f"pass@{k}: before {wording.describe_interval(before)}, "
            f"after {wording.describe_interval(after)}."
        ),
        before_span=_span(before),
        after_span=_span(after),
    )


def _feedback_in_view(metrics: Sequence[MetricsLine]) -> bool:
    """Whether any expert saw any feedback; assumed for runs without these metrics."""
    said = [m[name] for m in metrics for name in _IN_VIEW if m.get(name) is not None]
    return any(said) or not said


def _baseline(summary: Summary) -> str | None:
    return flatten(summary.config).get("objective.baseline")


def _span(interval: Interval) -> Span:
    low, mean, high = (
        100 * min(max(v, 0.0), 1.0) for v in (interval.low, interval.mean, interval.high)
    )
    return Span(at=mean, left=low, width=high - low)


def _facts(summary: Summary) -> list[tuple[str, str]]:
    before, after = summary.before, summary.after
    people = summary.corrections
    ungraded = before.ungraded + after.ungraded
    return [
        ("Steps", wording.count(summary.steps)),
        ("Attempts", wording.count(summary.rollouts)),
        ("Targets", wording.count(summary.targets)),
        ("Seed", str(summary.seed)),
        ("Training time", wording.duration(summary.seconds)),
        *_memory_facts(summary),
        ("Held out", f"{after.num_problems} × {after.num_samples}"),
        ("Mean length", f"{before.mean_length:.1f} → {after.mean_length:.1f}"),
        *([] if people is None else [("Corrections", wording.corrections(people))]),
        *([] if summary.late is None else [("Late answers", wording.late(summary.late))]),
        *([("Not graded", wording.count(ungraded))] if ungraded else []),
        *_feedback_facts(summary),
    ]


def _memory_facts(summary: Summary) -> list[tuple[str, str]]:
    peaks = summary.peak_bytes.items()
    if not peaks:
        return []
    phase, most = max(peaks, key=lambda peak: peak[1])
    name = wording.PHASE_NAMES.get(phase, phase)
    return [("Peak memory", f"{most / 1e9:.1f}{wording.NARROW}GB ({name.lower()})")]


def _feedback_facts(summary: Summary) -> list[tuple[str, str]]:
    by_source = summary.failed_judgements.items()
    failed = [(f"Failed: {name}", wording.count(number)) for name, number in by_source]
    unjudged = [("Not judged", wording.count(summary.unjudged))] if summary.unjudged else []
    cost = [("Cost of feedback", f"{summary.feedback_cost:.4g}")] if summary.feedback_cost else []
    return [*unjudged, *failed, *cost]


def _small_curves(metrics: Sequence[MetricsLine]) -> list[Chart]:
    charts = (draw(curve, metrics) for curve in SMALL_CURVES)
    return [chart for chart in charts if chart is not None]


def _steps_table(metrics: Sequence[MetricsLine]) -> StepTable:
    curves = (SOLVE_RATE, *SMALL_CURVES)
    stride = -(-len(metrics) // MOST_TABLE_ROWS) or 1
    kept = [m for i, m in enumerate(metrics) if i % stride == 0 or i == len(metrics) - 1]
    return StepTable(
        columns=["Step", *(c.title for c in curves)],
        rows=[[str(m["step"]), *(_number(m.get(c.metric)) for c in curves)] for m in kept],
        note="" if stride == 1 else f"Every {stride}th step; all are in metrics.jsonl.",
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _phases(summary: Summary) -> list[Phase]:
    total = sum(summary.phases.values()) or 1.0
    by_time = sorted(summary.phases.items(), key=lambda phase: -phase[1])
    return [
        Phase(
            name=wording.PHASE_NAMES.get(name, name),
            duration=wording.duration(seconds),
            share=100 * seconds / total,
        )
        for name, seconds in by_time
    ]
