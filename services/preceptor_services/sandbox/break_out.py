"""A program that tries to leave the sandbox that it runs in; the self-test runs it at every start.

It reads the addresses of things outside as JSON on its standard input, and writes one line of JSON
to descriptor 3 for each attempt that succeeded: the wall, and what was reached. It needs the
standard library only.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
_X86 = platform.machine() == "x86_64"
_KERNEL_CALLS = {
    "unshare (a user namespace)": (272, 97, (0x10000000,)),
    "keyctl": (250, 219, (0, -4, 1)),
    "shmget": (29, 194, (0x5EED, 4096, 0o1666)),
    "ptrace": (101, 117, (0x4206, 0, 0, 0)),
    "io_uring_setup": (425, 425, (4, ctypes.create_string_buffer(120))),
    "userfaultfd": (323, 282, (1,)),
    "bpf": (321, 280, (0, struct.pack("<4I", 2, 4, 8, 4) + bytes(100), 116)),
}
_REFUSED = (1, 13, 38)  # EPERM, EACCES, ENOSYS: any other answer comes from behind the wall


def main() -> None:
    world = json.load(sys.stdin)
    for wall, attempts in _attempts(world).items():
        for attempt in attempts:
            try:
                found = attempt()
            except (OSError, ValueError):
                continue
            if found:
                os.write(3, json.dumps([wall, found]).encode() + b"\n")
    os.write(3, b'["end"]\n')


def _attempts(world: dict[str, Any]) -> dict[str, list[Callable[[], str | None]]]:
    return {
        "files": [
            lambda: _reads(world["secret_file"]),
            lambda: _reads(f"/proc/{world['pid']}/root{world['secret_file']}"),
            lambda: _writes(world["target_file"]),
        ],
        "environment": [
            lambda: _environment(world["environment"]),
            lambda: _reads(f"/proc/{world['pid']}/environ"),
            lambda: _reads(f"/proc/{os.getppid()}/environ"),
        ],
        "network": [
            lambda: _connects(socket.AF_INET, ("127.0.0.1", world["port"])),
            lambda: _connects(socket.AF_UNIX, "\0" + world["abstract"]),
        ],
        "processes": [lambda: _signals(world["pid"])],
        "privileges": [
            lambda: _becomes_root(may_be_user_0=world["may_be_user_0"]),
            _has_a_capability,
            _may_gain_privileges,
        ],
        "system calls": [lambda name=name: _calls(name) for name in _KERNEL_CALLS],
        "limits": [_raises_limits, lambda: _takes_memory(world["memory_mb"])],
    }


def _reads(path: str) -> str | None:
    with open(path, "rb") as file:
        return f"it reads {path}" if file.read(16) else None


def _writes(path: str) -> str:
    with open(path, "r+b") as file:
        file.write(b"x")
    return f"it writes {path}"


def _environment(expected: list[str]) -> str | None:
    more = sorted(set(os.environ) - set(expected))
    return f"it has the variables {', '.join(more)}" if more else None


def _connects(family: int, address: Any) -> str:
    with socket.socket(family) as found:
        found.settimeout(1)
        found.connect(address)
    return f"it connects to {address}"


def _signals(pid: int) -> str:
    os.kill(pid, 0)
    return f"it may signal the process {pid}"


def _becomes_root(*, may_be_user_0: bool) -> str | None:
    if os.getuid() == 0:
        return None if may_be_user_0 else "it runs as root"
    os.setuid(0)
    return "it becomes root"


def _has_a_capability() -> str | None:
    header = struct.pack("<II", 0x20080522, 0)  # version 3, this process
    sets = ctypes.create_string_buffer(24)
    if _LIBC.syscall(ctypes.c_long(125 if _X86 else 90), header, sets) != 0:
        return None
    effective_and_permitted = sets.raw[:8] + sets.raw[12:20]
    return "it has capabilities" if any(effective_and_permitted) else None


def _may_gain_privileges() -> str | None:
    return None if _LIBC.prctl(39, 0, 0, 0, 0) == 1 else "no_new_privs is not set"


def _calls(name: str) -> str | None:
    x86, arm, arguments = _KERNEL_CALLS[name]
    values = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = _LIBC.syscall(ctypes.c_long(x86 if _X86 else arm), *values)
    if result < 0 and ctypes.get_errno() in _REFUSED:
        return None
    return f"{name} is not refused"


def _raises_limits() -> str | None:
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (most + 1, most + 1))
    return "it raises its limit on processor time"


def _takes_memory(limit_mb: int) -> str | None:
    try:
        return f"it takes {len(bytearray((limit_mb + 64) << 20)) >> 20} MB"
    except MemoryError:
        return None


if __name__ == "__main__":
    main()
