"""`preceptor export RUN@STEP OUT`: trained weights as a folder that other programs load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from preceptor_trainer.run.export import CannotExport, export


def export_command(
    run: Annotated[
        str,
        typer.Argument(help="RUN@STEP, RUN@best, or RUN for its last version; RUN is its folder."),
    ],
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
) -> None:
    """Writes trained weights as a Hugging Face folder, for from_pretrained and vLLM."""
    try:
        source = export(run, out)
    except CannotExport as error:
        raise typer.BadParameter(str(error), param_hint="RUN") from error
    except FileExistsError as error:
        raise typer.BadParameter(str(error), param_hint="OUT") from error
    Console().print(f"{out}: {source}", soft_wrap=True, markup=False, highlight=False)
