"""`preceptor init`: an example of a run's file, its data and its judge, to be changed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Annotated, Final

import typer

from preceptor_clients.cli.paste import pasted
from preceptor_clients.kit.files import write_whole
from preceptor_trainer.deployment.failures import say

_FILES: Final = Path(__file__).with_name("init_files")
_SEED: Final = 0
_HELD_OUT: Final = 16


def init_command(
    folder: Annotated[
        Path, typer.Argument(help="Where the files are put; made if it is not there.")
    ] = Path(),
    model: Annotated[
        str | None, typer.Option(help="Folder or hub name of the student, for the file.")
    ] = None,
) -> None:
    """Writes an example: run.toml, train.jsonl, dev.jsonl, judge.py."""
    train, dev = _products()
    files = {
        "run.toml": _run_toml(model),
        "judge.py": (_FILES / "judge.py").read_text(),
        "train.jsonl": train,
        "dev.jsonl": dev,
    }
    there = [name for name in files if (folder / name).exists()]
    if there:
        say(f"{folder}: has {', '.join(there)} already; nothing was written")
        raise typer.Exit(1)
    for name, text in files.items():
        write_whole(folder / name, text)
    typer.echo(f"wrote {', '.join(files)}\ntrain:  {pasted('train', folder / 'run.toml')}")


def _run_toml(model: str | None) -> str:
    lines = (_FILES / "run.toml").read_text().splitlines(keepends=True)
    if model is None:
        return "".join(lines)
    at = lines.index("[model]\n")
    return "".join([*lines[: at + 1], f"path = {json.dumps(model)}\n", *lines[at + 3 :]])


def _products() -> tuple[str, str]:
    """Questions for the product of two numbers, as JSON lines: training rows and held-out rows."""
    pairs = [(a, b) for a in range(2, 13) for b in range(2, 13)]
    random.Random(_SEED).shuffle(pairs)
    lines = [
        json.dumps({"id": f"{a}x{b}", "prompt": f"What is {a} * {b}?", "answer": a * b}) + "\n"
        for a, b in pairs
    ]
    return "".join(lines[_HELD_OUT:]), "".join(lines[:_HELD_OUT])
