"""The ladder of isolation: rungs by name, and the choice of one by what the machine offers."""

from __future__ import annotations

from typing import Final

from preceptor_services.sandbox.command import Sandbox
from preceptor_services.sandbox.isolation import IsolationFailed
from preceptor_services.sandbox.rungs import (
    bubblewrap,
    gvisor,
    landlock,
    namespaces,
    process,
    remote,
)
from preceptor_services.sandbox.rungs.rung import DEFAULT_OPTIONS, Rung, RungOptions
from preceptor_services.sandbox.self_test import check_walls

AUTO: Final = "auto"
RUNGS: Final[dict[str, Rung]] = {
    rung.name: rung
    for rung in (
        namespaces.RUNG,
        bubblewrap.RUNG,
        landlock.RUNG,
        gvisor.RUNG,
        remote.RUNG,
        process.RUNG,
    )
}
CHOSEN_BY_ITSELF: Final = ("namespaces", "bubblewrap", "landlock")
"""What `auto` tries, in this order. The others are used where they are asked for by name."""


def open_sandbox(
    rung: str = AUTO, *, slot: int = 0, options: RungOptions = DEFAULT_OPTIONS
) -> Sandbox:
    """A started and tested sandbox on the named rung, or on the first of `CHOSEN_BY_ITSELF`.

    Raises:
        ValueError: No rung has this name.
        IsolationFailed: The machine does not offer it, or a wall of it does not hold.
    """
    if rung == AUTO:
        return _open_first(slot, options)
    if rung not in RUNGS:
        raise ValueError(f"rung: {rung!r} is none of {', '.join((AUTO, *RUNGS))}")
    return _open(RUNGS[rung], slot, options)


def _open_first(slot: int, options: RungOptions) -> Sandbox:
    refused: list[str] = []
    for name in CHOSEN_BY_ITSELF:
        try:
            return _open(RUNGS[name], slot, options)
        except IsolationFailed as error:
            refused.append(str(error))
    raise IsolationFailed(
        "this machine offers no isolation for untrusted programs; " + "; ".join(refused)
    )


def _open(rung: Rung, slot: int, options: RungOptions) -> Sandbox:
    box = _started(rung, slot, options)
    try:
        if rung.has_walls:
            check_walls(box, own_kernel=rung.own_kernel)
    except IsolationFailed:
        box.stop()
        raise
    return box


def _started(rung: Rung, slot: int, options: RungOptions) -> Sandbox:
    try:
        box = rung.open(slot, options)
        try:
            box.start()
        except IsolationFailed:
            box.stop()
            raise
    except IsolationFailed as error:
        raise IsolationFailed(f"{error} (needs {rung.needs})") from error
    return box
