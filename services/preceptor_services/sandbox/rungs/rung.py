"""What every rung is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from preceptor_services.sandbox.command import Sandbox


@dataclass(frozen=True, kw_only=True)
class RungOptions:
    """Options of the rungs; each uses its own."""

    python: str = ""
    """Path of the interpreter that programs run under, with its packages; empty for the service's
    own, without packages."""
    url: str = ""
    """Address of the remote executor."""
    key_file: str = ""
    """File with the key of the remote executor, where it asks for one."""
    program: str = ""
    """Path of `bwrap` or `runsc`, where it is not on the PATH."""


DEFAULT_OPTIONS: Final = RungOptions()


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One rung: its name, how to open a sandbox on it, and what to do where it is refused."""

    name: str
    open: Callable[[int, RungOptions], Sandbox]
    """Slot and options to a sandbox that is not started yet."""
    has_walls: bool = True
    """Whether the self-test tries to break out of it."""
    own_kernel: bool = False
    """Whether programs call a kernel that is not the machine's."""
    needs: str
    """What the machine must offer, as one sentence for whoever reads a refusal."""
