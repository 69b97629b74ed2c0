"""States of tickets that several queries ask for."""

from __future__ import annotations

from typing import Final

ASKED: Final = ("queued", "running")
"""A service is, or will be, asked: the deadline counts."""
LIVE: Final = (*ASKED, "waiting")
"""Somebody still wants an answer."""
