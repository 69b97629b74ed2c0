"""python -m preceptor_trainer.theory docs"""

from pathlib import Path
from typing import Annotated

import typer

from preceptor_trainer.theory.page import find, write


def main(
    docs: Annotated[Path, typer.Argument(help="Folder of the documentation.")] = Path("docs"),
) -> None:
    """Computes every number of docs/explanation/theory.md again; writes its tables and figures."""
    write(find(), docs)


typer.run(main)
