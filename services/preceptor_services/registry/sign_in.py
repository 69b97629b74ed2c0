"""The file by which Prometheus lets in who has a key: `sign_in_file` of a key in the settings.

Prometheus reads it at each request (`--web.config.file`), so a new secret needs no restart. It
holds a bcrypt hash and not the key. The name to sign in with is the key's name in the settings.
"""

from __future__ import annotations

from pathlib import Path

import bcrypt

from preceptor_clients.contract.deployment import DeployedKey
from preceptor_clients.kit.files import OWNER_ONLY, write_whole
from preceptor_services.kit.settings import read_secret

_MOST_BYTES = 72
"""Of what bcrypt looks at."""


def write_sign_in(name: str, key: DeployedKey) -> Path | None:
    """Writes the `sign_in_file` of a key, unless there is one for its secret.

    Returns:
        The file, or None where the settings name none.

    Raises:
        ValueError: the key's file holds none, or one that is too long to be a password.
        OSError: a file cannot be read or written.
    """
    if key.sign_in_file is None:
        return None
    token = read_secret(key.file).encode()
    if len(token) > _MOST_BYTES:
        raise ValueError(
            f"{key.file}: the key has {len(token)} bytes, and one that people sign in with has "
            f"{_MOST_BYTES} at most; make a shorter one, or remove `sign_in_file`"
        )
    if not _opens(key.sign_in_file, name, token):
        hashed = bcrypt.hashpw(token, bcrypt.gensalt(prefix=b"2b")).decode()
        write_whole(key.sign_in_file, _users(name, hashed), mode=OWNER_ONLY)
    return key.sign_in_file


def _users(name: str, hashed: str) -> str:
    return f"basic_auth_users:\n  {name}: {hashed}\n"


def _opens(file: Path, name: str, token: bytes) -> bool:
    try:
        written = file.read_text()
        hashed = written.split()[-1]
        return written == _users(name, hashed) and bcrypt.checkpw(token, hashed.encode())
    except (FileNotFoundError, IndexError, ValueError):
        return False
