"""The interpreter that programs run under, and what they may read of the machine."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from preceptor_services.sandbox.isolation import IsolationFailed

_SYSTEM: Final = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives",
    "/etc/localtime",
)  # fmt: skip
_OTHERS: Final = ("/usr/bin/python3", "/usr/local/bin/python3")
_ASK: Final = (
    "import json, platform, sys, sysconfig; "
    "json.dump([sys.base_prefix, sys.prefix, platform.python_version(), "
    "sysconfig.get_paths()['purelib'], list(sys.version_info[:2])], sys.stdout)"
)
_OLDEST: Final = [3, 11]


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """An interpreter of this machine."""

    program: str
    version: str
    visible: tuple[str, ...]
    """What programs may read and run: the system's libraries and tools, and the interpreter's."""
    packages: tuple[str, ...] = ()
    """Folders of installed packages that programs may import."""


def choose(named: str, *, by_another_user: bool) -> Interpreter:
    """The named interpreter with its packages, or the service's own without any.

    Args:
        named: Path of an interpreter; empty for the service's own.
        by_another_user: Programs run as a user that cannot pass through private folders. Then an
            own interpreter in one (such as root's home) gives way to the system's.

    Raises:
        IsolationFailed: None can be used.
    """
    if named:
        found = _examine(named, with_packages=True)
        if by_another_user and not _others_may_read(found):
            raise IsolationFailed(
                f"python: {named} is in a folder that the sandbox's user cannot read"
            )
        return found
    own = _examine(os.path.realpath(sys.executable), with_packages=False)
    if not by_another_user or _others_may_read(own):
        return own
    for path in _OTHERS:
        if os.path.exists(path) and _others_may_read(other := _examine(path, with_packages=False)):
            return other
    raise IsolationFailed(
        f"python: the sandbox's user cannot read the folder of {own.program}, and there is no "
        f"{' or '.join(_OTHERS)}; name an interpreter in `python`, or install one outside of it"
    )


@cache
def _examine(program: str, *, with_packages: bool) -> Interpreter:
    try:
        done = subprocess.run(
            [program, "-I", "-c", _ASK], capture_output=True, timeout=60, check=True, env={}
        )
        base, prefix, version, packages, numbers = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise IsolationFailed(f"python: {program} does not run: {error}") from error
    if numbers < _OLDEST:
        raise IsolationFailed(f"python: {program} is {version}; the sandbox needs 3.11 or newer")
    folders = [os.path.realpath(base), *([os.path.realpath(prefix)] if with_packages else [])]
    return Interpreter(
        program=os.path.realpath(program),
        version=version,
        visible=tuple(_existing((*_SYSTEM, *folders))),
        packages=(packages,) if with_packages else (),
    )


def _existing(paths: tuple[str, ...]) -> Iterator[str]:
    """Those that exist, without those below another."""
    for path in dict.fromkeys(paths):
        above = any(path != other and path.startswith(other + "/") for other in paths)
        if os.path.lexists(path) and (path in _SYSTEM or not above):
            yield path


def _others_may_read(interpreter: Interpreter) -> bool:
    folders = [Path(path) for path in interpreter.visible if path not in _SYSTEM]
    every = {folder for path in folders for folder in (path, *path.parents)}
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in every)
