"""The quickstart on several ranks, as a user's own recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from preceptor_trainer.recipes.quickstart import quickstart
from preceptor_trainer.run.config import RunConfig


def recipe(ranks: int = 1, **options: Any) -> RunConfig:
    """Takes the quickstart's options, and the number of ranks."""
    return replace(quickstart(**options), ranks=ranks, threads=1)
