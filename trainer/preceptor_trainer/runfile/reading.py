"""Reads a run's file, with settings of the command line that win over it.

read_run_file(Path("run.toml"), ["optim.lr=1e-6", "objective.use=grpo"])
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from preceptor_clients.contract.errors import from_validation
from preceptor_trainer.runfile.schema import RunFile


def read_run_file(path: Path, settings: Sequence[str] = ()) -> RunFile:
    """The file at `path`; a key of `settings` replaces the file's.

    Args:
        path: TOML.
        settings: `SECTION.KEY=VALUE`; the value is TOML, or a bare word.

    Raises:
        ValueError: it is not TOML, or a key is unknown, missing or wrong; each is named.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: is not TOML: {error}") from None
    for setting in settings:
        _put(table, setting)
    try:
        return RunFile.model_validate(table)
    except ValidationError as error:
        raise ValueError(f"{path}: {from_validation(error).detail}") from None


def _put(table: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    *sections, name = [part.strip() for part in key.split(".")]
    if not (equals and sections and name and all(sections)):
        raise ValueError(f"--set {setting!r} is not SECTION.KEY=VALUE, as in optim.lr=1e-6")
    place = table
    for section in sections:
        inner = place.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ValueError(f"--set {setting!r}: {section} is a value and not a table")
        place = cast("dict[str, Any]", inner)
    place[name] = _value(text.strip())


def _value(text: str) -> Any:
    """TOML, or else the text itself, so that words and paths need no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
