"""How a command ends that could not do what it was asked: plainly, and with what to do next."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import typer
from rich.console import Console

from preceptor_clients.contract.errors import PreceptorError, Unauthorised
from preceptor_trainer.deployment.local import DeploymentFailed
from preceptor_trainer.kit.disk import MAKE_ROOM

INTERRUPTED: Final = 130
"""What a shell says of a command that Ctrl-C ended."""
TERMINATED: Final = 128 + signal.SIGTERM
"""What it says of one that SIGTERM ended."""


class Terminated(Exception):
    """The command was asked to end."""


@contextmanager
def said_plainly(
    kept: Callable[[], str],
    again: str,
    *,
    key_file: Path | None = None,
    also: tuple[type[Exception], ...] = (),
) -> Generator[None]:
    """Errors that say what is wrong by themselves come without a traceback.

    Args:
        kept: Says what a run that ends now leaves behind.
        again: The command that goes on.
        key_file: Where the key came from that a gateway may refuse.
        also: Further errors whose message is enough.
    """
    try:
        yield
    except KeyboardInterrupt:
        say(f"interrupted: {kept()}\ncontinue it:  {again}")
        raise typer.Exit(INTERRUPTED) from None
    except Terminated:
        say(f"terminated: {kept()}\ncontinue it:  {again}")
        raise typer.Exit(TERMINATED) from None
    except Unauthorised as error:
        where = "" if key_file is None else f"the gateway does not know the key in {key_file}: "
        say(f"{where}{error}")
        raise typer.Exit(1) from None
    except (DeploymentFailed, PreceptorError, *also) as error:
        say(f"{error}\nonce that is mended:  {again}" if may_pass(error) else str(error))
        raise typer.Exit(1) from None
    except OSError as error:
        advice = f"; {MAKE_ROOM}" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        say(f"{error}{advice}: {kept()}\ncontinue it:  {again}")
        raise typer.Exit(1) from None


def may_pass(error: Exception) -> bool:
    """Whether the same command may work later, without a change to it."""
    return isinstance(error, PreceptorError) and error.retryable


def say(message: str) -> None:
    """An error, as it is."""
    Console(stderr=True).print(message, markup=False, soft_wrap=True, highlight=False)
