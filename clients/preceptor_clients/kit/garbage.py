"""The garbage collector of a server, which has loaded what it keeps before it serves."""

from __future__ import annotations

import gc
from typing import Final

_YOUNG: Final = 5_000
"""New objects after which the collector looks for cycles among them; the usual 700 are those of one
frame with a few answers, all of which are freed without it."""


def collect_rarely() -> None:
    """Excludes what is loaded from garbage collection, and collects less often.

    A full collection over the loaded modules stops every request for a tenth of a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
