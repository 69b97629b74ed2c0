"""A plain process with limits and no walls, for trusted programs only; chosen by its name alone."""

from __future__ import annotations

import os
from typing import Final

from preceptor_services.sandbox.command import Sandbox
from preceptor_services.sandbox.interpreter import choose
from preceptor_services.sandbox.rungs.rung import Rung, RungOptions
from preceptor_services.sandbox.warm import Recipe, WarmSandbox


def _open(slot: int, options: RungOptions) -> Sandbox:
    python = choose(options.python, by_another_user=os.geteuid() == 0)
    return WarmSandbox(Recipe(rung="process", seccomp=False, interpreter=python), slot)


RUNG: Final = Rung(name="process", open=_open, has_walls=False, needs="Linux")
