"""`preceptor report RUN_DIR`: writes the report of a finished run again."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from preceptor_trainer.report.page import write_report
from preceptor_trainer.report.run_files import SUMMARY_FILE
from preceptor_trainer.report.terminal import terminal_summary


def report_command(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
) -> None:
    """Writes report.html and the figures of a finished run, and shows its result."""
    try:
        path = write_report(run_dir)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="RUN_DIR") from error
    summary = json.loads((run_dir / SUMMARY_FILE).read_text(encoding="utf-8"))
    Console().print(terminal_summary(summary, path), soft_wrap=True)
