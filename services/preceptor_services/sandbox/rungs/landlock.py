"""Landlock and a filter of system calls, without any privilege: the rung for containers."""

from __future__ import annotations

import os
from typing import Final

from preceptor_services.sandbox.command import Sandbox
from preceptor_services.sandbox.interpreter import choose
from preceptor_services.sandbox.rungs.rung import Rung, RungOptions
from preceptor_services.sandbox.warm import Recipe, WarmSandbox


def _open(slot: int, options: RungOptions) -> Sandbox:
    python = choose(options.python, by_another_user=os.geteuid() == 0)
    return WarmSandbox(Recipe(rung="landlock", landlock=True, interpreter=python), slot)


RUNG: Final = Rung(
    name="landlock",
    open=_open,
    needs="Linux 5.13 or newer with Landlock among its security modules (lsm=landlock,...), "
    "and a container runtime whose seccomp profile lets landlock_* and seccomp through",
)
