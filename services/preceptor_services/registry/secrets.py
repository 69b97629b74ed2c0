"""The secrets of a key: its file, and for a grace time the previous one beside it.

`rotate` puts the old secret with the time of its end into `NAME.key.previous`, and then a new one
into `NAME.key`. In between the old one is in both files, so some secret of the caller is valid at
every moment, also if the process ends in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from preceptor_clients.contract.deployment import DeployedKey
from preceptor_clients.kit.files import OWNER_ONLY, new_key, read_key_file, write_whole
from preceptor_services.kit.settings import read_secret

Stamps = dict[Path, tuple[int, int, int]]
"""Inode, size and time of change of each file that exists."""


class Secret(NamedTuple):
    """One token that opens a key's scopes."""

    token: str
    until: float | None
    """Seconds since the epoch; None means no end."""
    current: bool


def previous_file(file: Path) -> Path:
    """Where the previous secret of a key file is."""
    return file.with_name(file.name + ".previous")


def read_secrets(key: DeployedKey) -> list[Secret]:
    """The current secret of a key, and its previous one where there is one.

    Raises:
        ValueError: a file holds no key, or the previous one no time.
        OSError: a file cannot be read.
    """
    until = None if key.expires is None else key.expires.timestamp()
    secrets = [Secret(read_secret(key.file), until, current=True)]
    previous = _previous(key.file)
    if previous is not None and previous.token != secrets[0].token:
        ends = [end for end in (previous.until, until) if end is not None]
        secrets.append(previous._replace(until=min(ends)))
    return secrets


def _previous(file: Path) -> Secret | None:
    beside = previous_file(file)
    if not beside.is_file():
        return None
    token, _, until = read_key_file(beside).partition("\n")
    try:
        end = datetime.fromisoformat(until.strip()).timestamp()
    except ValueError:
        raise ValueError(
            f"{beside}: its second line is {until[:40]!r} and not a time; remove the file, "
            "or rotate the key again"
        ) from None
    return Secret(token.strip(), end, current=False)


def rotate(file: Path, grace_s: float, now: float, *, drop_previous: bool = False) -> None:
    """Gives a key a new secret; the old one stays valid for `grace_s`.

    Raises:
        ValueError: an earlier secret is still valid and would end at once.
    """
    earlier = _previous(file)
    if earlier is not None and earlier.until is not None and not drop_previous:
        left_s = earlier.until - now
        if left_s > 0:
            raise ValueError(
                f"{file.name}: was rotated before, and its earlier secret is valid for "
                f"{left_s:.0f} s more; wait, or end it now with --drop-previous"
            )
    until = datetime.fromtimestamp(now + grace_s, UTC).isoformat(timespec="seconds")
    kept = f"{read_secret(file)}\n{until}\n"
    write_whole(previous_file(file), kept, mode=OWNER_ONLY)
    write_whole(file, new_key() + "\n", mode=OWNER_ONLY)


def stamps(keys: Mapping[str, DeployedKey]) -> Stamps:
    """What changes when one of the files does."""
    found: Stamps = {}
    for key in keys.values():
        for file in (key.file, previous_file(key.file)):
            try:
                status = file.stat()
            except OSError:
                continue
            found[file] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found
