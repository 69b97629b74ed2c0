"""The sandbox of expressions by its former name."""

from __future__ import annotations

from preceptor_services.sandbox.interpreter import choose
from preceptor_services.sandbox.isolation import MAX_SLOTS
from preceptor_services.sandbox.warm import Recipe, WarmSandbox

__all__ = ["MAX_SLOTS", "ProcessIsolation"]


class ProcessIsolation(WarmSandbox):
    """The rung of namespaces."""

    def __init__(self, slot: int = 0) -> None:
        python = choose("", by_another_user=False)
        super().__init__(Recipe(rung="namespaces", namespaces=True, interpreter=python), slot)
