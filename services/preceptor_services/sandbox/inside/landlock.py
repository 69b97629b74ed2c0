"""Landlock: which files, ports, sockets and processes a program may touch, without privileges.

https://docs.kernel.org/userspace-api/landlock.html. What an older version lacks is covered by the
filter of system calls (`walls.py`). Not covered by any version: a program that guesses a file's
path can ask for its size and times (stat).
"""

from __future__ import annotations

import ctypes
import os
import struct

from preceptor_services.sandbox.inside.linux import (
    SYS_LANDLOCK_ADD,
    SYS_LANDLOCK_CREATE,
    SYS_LANDLOCK_RESTRICT,
    syscall,
)

SIGNALS_SINCE, TRUNCATE_SINCE = 6, 3
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REFER, _TRUNCATE = 1, 2, 4, 8, 1 << 13, 1 << 14
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_ALL_SINCE = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_MAKE_DEVICES = (1 << 6) | (1 << 11)  # character and block devices
_TCP_SINCE, _BIND_AND_CONNECT = 4, 3
_SCOPES = 3  # abstract sockets, signals


def version() -> int:
    """The kernel's version of Landlock; 0 where it has none or refuses it."""
    try:
        return syscall("landlock", SYS_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    except OSError:
        return 0


class Rules:
    """What a child may touch. Built once; `restrict` adds the folder of one run."""

    def __init__(self, readable: list[str]) -> None:
        self._version = version()
        if self._version < 1:
            raise OSError("Landlock is not enabled in this kernel, or is refused here")
        known = max(v for v in _ALL_SINCE if v <= self._version)
        self._all = _ALL_SINCE[known]
        self._readable = [path for path in readable if os.path.exists(path)]

    @property
    def version(self) -> int:
        return self._version

    def restrict(self, folder: str | None) -> None:
        """Restricts this process and its children, for ever: to nothing where `folder` is None."""
        tcp = _BIND_AND_CONNECT if self._version >= _TCP_SINCE else 0
        scopes = _SCOPES if self._version >= SIGNALS_SINCE else 0
        size = 24 if scopes else 16 if tcp else 8
        attributes = ctypes.create_string_buffer(
            struct.pack("<QQQ", self._all, tcp, scopes)[:size], size
        )
        ruleset = syscall(
            "landlock_create_ruleset",
            SYS_LANDLOCK_CREATE,
            attributes,
            ctypes.c_size_t(size),
            ctypes.c_uint(0),
        )
        try:
            if folder is not None:
                for path in self._readable:
                    self._add(ruleset, path, _READ)
                for path in ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"):
                    self._add(ruleset, path, _READ_FILE | _WRITE_FILE)
                self._add(ruleset, folder, self._all & ~_MAKE_DEVICES)
            syscall(
                "landlock_restrict_self",
                SYS_LANDLOCK_RESTRICT,
                ctypes.c_int(ruleset),
                ctypes.c_uint(0),
            )
        finally:
            os.close(ruleset)

    def _add(self, ruleset: int, path: str, allowed: int) -> None:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return
        try:
            if not os.path.isdir(path):
                allowed &= _EXECUTE | _WRITE_FILE | _READ_FILE | (self._all & _TRUNCATE)
            rule = ctypes.create_string_buffer(struct.pack("<Qi", allowed, fd), 12)
            syscall(
                f"landlock_add_rule {path}",
                SYS_LANDLOCK_ADD,
                ctypes.c_int(ruleset),
                ctypes.c_int(1),
                rule,
                ctypes.c_uint(0),
            )
        finally:
            os.close(fd)
