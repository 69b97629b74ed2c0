"""The command that a run was begun with, so that the one that continues it can be printed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from preceptor_clients.kit.files import write_whole

_FILE: Final = "begun.json"


def keep_options(run_dir: Path, options: Mapping[str, Any]) -> None:
    """Writes down the options of the command that begins the run."""
    write_whole(run_dir / _FILE, json.dumps(dict(options), indent=1) + "\n")


def kept_options(run_dir: Path) -> dict[str, Any] | None:
    """The options that the run was begun with; None where the folder has no record."""
    path = run_dir / _FILE
    return cast("dict[str, Any]", json.loads(path.read_text())) if path.exists() else None
