"""Own namespaces, an own root, and a filter of system calls: the default on an ordinary Linux."""

from __future__ import annotations

from typing import Final

from preceptor_services.sandbox.command import Sandbox
from preceptor_services.sandbox.interpreter import choose
from preceptor_services.sandbox.rungs.rung import Rung, RungOptions
from preceptor_services.sandbox.warm import Recipe, WarmSandbox


def _open(slot: int, options: RungOptions) -> Sandbox:
    python = choose(options.python, by_another_user=False)
    return WarmSandbox(Recipe(rung="namespaces", namespaces=True, interpreter=python), slot)


RUNG: Final = Rung(
    name="namespaces",
    open=_open,
    needs="Linux 5.12 or newer, and user namespaces or root with CAP_SYS_ADMIN; "
    "container runtimes refuse them by default, so use `landlock` there",
)
