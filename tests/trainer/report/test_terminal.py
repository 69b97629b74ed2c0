import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from rich.console import Console, RenderableType
from typer.testing import CliRunner

from preceptor_clients.cli.paste import pasted
from preceptor_trainer.report import terminal_summary
from preceptor_trainer.report.command import report_command

MakeRun = Callable[..., Path]


def printed(renderable: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable, soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().replace("\N{NARROW NO-BREAK SPACE}", " ")


def test_the_summary_shows_before_after_and_gain(summary_content: dict[str, Any]) -> None:
    text = printed(terminal_summary(summary_content))

    assert "pass@1        34.5 %   57.6 %   +23.1  +19.8 to +26.4" in text
    assert "pass@8        71.2 %   80.3 %     +9.1  +5.8 to +12.5" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_corrections_are_counted_where_people_took_part(summary_content: dict[str, Any]) -> None:
    people = {"sent": 50, "standing": 31, "trained": 160}

    alone = printed(terminal_summary(summary_content))
    together = printed(terminal_summary(summary_content | {"corrections": people}))

    assert "corrections" not in alone
    assert "corrections: 50 rollouts sent to people, 31 stand, trained on 160 times" in together


def test_late_answers_are_counted_where_steps_overlapped(summary_content: dict[str, Any]) -> None:
    late = {"joined": 228, "dropped": 16, "skipped": 8, "waiting": 4}

    alone = printed(terminal_summary(summary_content))
    overlapped = printed(terminal_summary(summary_content | {"late": late}))

    assert "late answers" not in alone
    assert "late answers: 228 rows joined, 16 dropped, 8 skipped at first, 4 awaited" in overlapped


def test_an_interval_with_zero_in_it_is_marked(summary_content: dict[str, Any]) -> None:
    unclear = {"mean": 0.02, "low": -0.01, "high": 0.05}
    content = summary_content | {"gain": {"pass@1": unclear, "pass@8": unclear}}

    assert printed(terminal_summary(content)).count("  includes 0") == 2


def test_what_is_to_be_copied_is_on_one_line_neither_folded_nor_cut(
    summary_content: dict[str, Any],
) -> None:
    path = Path("/a/long/path/to/the/folder/of/all the runs/of/this/machine/run/report.html")

    lines = printed(terminal_summary(summary_content, path)).splitlines()

    assert str(path) in lines
    assert pasted("trace", summary_content["trace_target"], "--run-dir", path.parent) in lines


def test_a_summary_of_an_older_version_is_traced_in_the_folder_where_it_lies(
    summary_content: dict[str, Any],
) -> None:
    older = {name: value for name, value in summary_content.items() if name != "trace_target"}
    older["trace_command"] = "preceptor trace t-0:1 --run-dir runs/where-it-was"

    lines = printed(terminal_summary(older, Path("moved/run/report.html"))).splitlines()

    assert pasted("trace", "t-0:1", "--run-dir", "moved/run") in lines


def test_the_command_writes_the_page_and_says_where(make_run: MakeRun) -> None:
    run_dir, app = make_run(), typer.Typer()
    app.command()(report_command)

    result = CliRunner().invoke(app, [str(run_dir)])

    assert result.exit_code == 0, result.output
    assert "report.html" in result.output.replace("\n", "")
    assert (run_dir / "report.html").exists()


def test_the_command_names_what_is_wrong_with_the_folder(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(report_command)

    result = CliRunner().invoke(app, [str(tmp_path)])

    assert result.exit_code == 2
    assert "summary.json" in result.output
