"""bubblewrap makes the namespaces and the root; the keeper in it adds the filter of calls."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from preceptor_services.sandbox.command import Sandbox
from preceptor_services.sandbox.inside.namespaces import DEVICES
from preceptor_services.sandbox.interpreter import Interpreter, choose
from preceptor_services.sandbox.isolation import IsolationFailed, user_of
from preceptor_services.sandbox.rungs.rung import Rung, RungOptions
from preceptor_services.sandbox.warm import Recipe, WarmSandbox

_INSIDE: Final = Path(__file__).parents[1] / "inside"
_KEEPER: Final = "/keeper"


def _open(slot: int, options: RungOptions) -> Sandbox:
    program = options.program or shutil.which("bwrap")
    if not program:
        raise IsolationFailed("bubblewrap: there is no program bwrap on the PATH")
    python = choose(options.python, by_another_user=os.geteuid() == 0)
    recipe = Recipe(
        rung="bubblewrap",
        wrapper=(program, *_arguments(user_of(slot), python)),
        keeper_folder=_KEEPER,
        folder="/tmp",
        starts_as_slot=True,
        empty="/empty",
        interpreter=python,
    )
    return WarmSandbox(recipe, slot)


def _arguments(uid: int, python: Interpreter) -> list[str]:
    arguments = ["--unshare-all", "--unshare-user", "--die-with-parent", "--as-pid-1"]
    arguments += ["--new-session", "--uid", str(uid), "--gid", str(uid), "--cap-drop", "ALL"]
    # To enter the empty root of expressions; a child gives it up before its program starts.
    arguments += ["--cap-add", "CAP_SYS_CHROOT"]
    for path in python.visible:
        if os.path.islink(path):
            arguments += ["--symlink", os.readlink(path), path]
        else:
            arguments += ["--ro-bind", path, path]
    for device in DEVICES:
        arguments += ["--dev-bind", device, device]
    inside = f"{_KEEPER}/preceptor_services/sandbox/inside"
    arguments += ["--ro-bind", str(_INSIDE), inside, "--proc", "/proc", "--tmpfs", "/tmp"]
    # Last, since what is mounted on the root needs its folders made.
    return [*arguments, "--dir", "/empty", "--remount-ro", "/", "--"]


RUNG: Final = Rung(
    name="bubblewrap",
    open=_open,
    needs="the program bwrap, and user namespaces or a bwrap with the setuid bit",
)
