"""The quickstart's run with a scratch folder, as a user's own recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from preceptor_trainer.recipes.quickstart import quickstart
from preceptor_trainer.run.config import RunConfig


def recipe(*, scratch: str, **options: Any) -> RunConfig:
    """Takes the quickstart's options."""
    return replace(quickstart(**options), scratch=Path(scratch))
