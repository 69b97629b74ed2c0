"""States of tickets that several queries use."""

from __future__ import annotations

from typing import Final

ASKED: Final = ("queued", "running")
"""The question is with a service or in the queue; the ticket's deadline applies."""
LIVE: Final = (*ASKED, "waiting")
"""The answer is still wanted."""
