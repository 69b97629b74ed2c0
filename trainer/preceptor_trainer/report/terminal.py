"""The few lines that a run ends with in the terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from preceptor_clients.cli.paste import pasted
from preceptor_trainer.report import wording
from preceptor_trainer.report.run_files import Summary

_STYLES: dict[wording.Verdict, str] = {
    "better": "bold green",
    "unclear": "bold yellow",
    "worse": "bold red",
}
_REMARKS: dict[wording.Verdict, str] = {
    "better": "",
    "unclear": "includes 0",
    "worse": "worse",
}


def terminal_summary(summary: Mapping[str, Any], report_path: Path | None = None) -> RenderableType:
    """The result of a run as a table, where its report is, and how to trace one token.

    Print it with `soft_wrap=True`, or a line that is longer than the console is cut off.

    Args:
        summary: the content of `summary.json`.
        report_path: the page, if one was written.
    """
    checked = Summary.model_validate(summary)
    lines = [Text(), _headline(checked), _table(checked)]
    if checked.corrections is not None:
        lines.append(Text(f"corrections: {wording.corrections(checked.corrections)}"))
    if checked.late is not None:
        lines.append(Text(f"late answers: {wording.late(checked.late)}"))
    if report_path is not None:
        lines.append(_pointer("report", str(report_path)))
        lines += trace_pointer(checked.trace_target, report_path.parent)
    return Group(*lines)


def trace_pointer(token: str | None, run_dir: Path) -> list[Text]:
    """How to trace the token that a run's summary names, if it names one."""
    if token is None:
        return []
    return [_pointer("trace one token", pasted("trace", token, "--run-dir", run_dir))]


def _headline(summary: Summary) -> Text:
    before, after = summary.before, summary.after
    ungraded = before.ungraded + after.ungraded
    missing = f", {ungraded} of them not graded" if ungraded else ""
    return Text.assemble(
        (summary.run, "bold"),
        f": {summary.steps} steps in {wording.duration(summary.seconds)}; "
        f"held out: {after.num_problems} problems × {after.num_samples} samples{missing}",
    )


def _table(summary: Summary) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("held out")
    for name in ("before", "after", "gain in points (95 %)"):
        table.add_column(name, justify="right")
    table.add_column("", no_wrap=True)
    for k in sorted(summary.gain.pass_at):
        gain = summary.gain.pass_at[k]
        verdict = wording.verdict(gain)
        table.add_row(
            f"pass@{k}",
            wording.percent(summary.before.pass_at[k].mean),
            wording.percent(summary.after.pass_at[k].mean),
            Text.assemble(
                (wording.points(gain.mean), _STYLES[verdict]),
                f"  {wording.points(gain.low)} to {wording.points(gain.high)}",
            ),
            Text(_REMARKS[verdict], style="yellow"),
        )
    table.add_row(
        "mean length", f"{summary.before.mean_length:.1f}", f"{summary.after.mean_length:.1f}"
    )
    return table


def _pointer(label: str, target: str) -> Text:
    """A label, and on its own line the text to copy, which is never broken."""
    return Text.assemble((f"{label}\n", "dim"), target, overflow="ignore", no_wrap=True)
