"""A version that a trainer sends: one file in this machine's memory until vLLM has read it.

The trainer holds it at an address for the time of the transfer; vLLM's workers on one machine
share what one of them fetches. Nothing is loaded before the whole file is here, so a transfer
that breaks leaves the weights as they are.
"""

from __future__ import annotations

import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from preceptor_clients.sdk.offered_weights import WEIGHTS_FILE

_MEMORY: Final = Path("/dev/shm")
_MARGIN: Final = 1 << 30
"""Room that stays for what else is there, such as the queues between vLLM's processes."""
_CHUNK: Final = 8 << 20
_IDLE_S: Final = 60.0
"""Longest wait for the next bytes."""
_left: Final[set[str]] = set()
"""Names that this process has fetched: a trainer that is killed drops nothing."""


def fetch(url: str, name: str) -> None:
    """Fetches a file of weights, and drops those that this process has fetched before.

    Args:
        url: Where the trainer holds it.
        name: What `fetched` and `drop` know it by: letters and digits, of this transfer alone.

    Raises:
        ValueError: the name has other characters.
        OSError: the address cannot be reached, there is no room, or bytes are missing.
    """
    target = _folder_name(name)
    while _left:
        drop(_left.pop())
    # Without the environment's proxies: they lead out of the network that both are in.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(url, timeout=_IDLE_S) as reply:
        size = int(reply.headers["Content-Length"])
        root = _with_room(size)
        folder = Path(tempfile.mkdtemp(prefix="preceptor-fetching-", dir=root))
        try:
            with (folder / WEIGHTS_FILE).open("wb") as file:
                shutil.copyfileobj(reply, file, _CHUNK)
                # A connection that ends early is an end like any other to `reply`.
                if file.tell() != size:
                    raise OSError(f"only {file.tell()} of {size} bytes of the weights came")
            try:
                folder.rename(root / target)
            except OSError:
                # Some of vLLM's ways to start workers have several that count as a machine's first.
                if not (root / target).is_dir():
                    raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    _left.add(name)


def fetched(name: str) -> Path:
    """The folder that has what was fetched under this name.

    Raises:
        FileNotFoundError: nothing was.
    """
    for folder in _places(name):
        return folder
    raise FileNotFoundError(f"no weights were fetched as {name!r} on this machine")


def drop(name: str) -> None:
    """Removes what was fetched under this name, if anything was."""
    for folder in _places(name):
        shutil.rmtree(folder, ignore_errors=True)


def _places(name: str) -> Iterator[Path]:
    roots = (_MEMORY, Path(tempfile.gettempdir()))
    return (place for root in roots if (place := root / _folder_name(name)).is_dir())


def _folder_name(name: str) -> str:
    if not name.isalnum():
        raise ValueError(f"name: {name!r} must consist of letters and digits")
    return f"preceptor-fetched-{name}"


def _with_room(size: int) -> Path:
    """Memory if it has room; a container's has 64 MB unless it is given more."""
    has_room = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > size + _MARGIN
    return _MEMORY if has_room else Path(tempfile.gettempdir())
