"""The test of a rung's walls at every start: a program in the sandbox tries to get out.

Things that only a missing wall would let it reach are made outside, as open as the machine allows.
A wall that is missing is named, with what to do; nothing runs in such a sandbox.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from preceptor_services.sandbox.command import Command, CommandLimits, Execution, Sandbox
from preceptor_services.sandbox.isolation import IsolationFailed

_PROGRAM: Final = Path(__file__).with_name("break_out.py")
_LIMITS: Final = CommandLimits(cpu_seconds=10, timeout_s=60, memory_mb=128)
_SPIN_LIMITS: Final = CommandLimits(cpu_seconds=0.05, timeout_s=30, memory_mb=128)
_ENVIRONMENT: Final = ("HOME", "LC_ALL", "LC_CTYPE", "PATH", "PWD", "PYTHONHASHSEED", "TMPDIR")
_CONTENTS: Final = b"unchanged"
ADVICE: Final[Mapping[str, str]] = {
    "files": "the kernel must enforce a mount namespace or Landlock for files",
    "environment": "the kernel must hide /proc of other processes",
    "network": "the kernel must enforce a network namespace or the filter of system calls",
    "processes": "the kernel must enforce a process namespace, or Landlock 6 (Linux 6.12)",
    "privileges": "run the service as an ordinary user, or as root that may change users",
    "system calls": "the kernel must support seccomp filters (CONFIG_SECCOMP_FILTER)",
    "limits": "the service must be allowed to set resource limits",
}


def check_walls(box: Sandbox, *, own_kernel: bool = False) -> None:
    """Raises for the first wall that does not hold.

    Args:
        box: A started sandbox.
        own_kernel: What system calls reach there is no kernel of this machine.

    Raises:
        IsolationFailed: A wall is missing; or the program could not try.
    """
    rung = box.describe().get("level", "unknown")
    with ExitStack() as stack:
        world, target = _make_world(stack, may_be_user_0=own_kernel and os.geteuid() != 0)
        found = box.execute(_command(world), _LIMITS)
        changed = target.read_bytes() != _CONTENTS
    tried = [json.loads(line) for line in found.result.splitlines()]
    if own_kernel:
        tried = [one for one in tried if one[0] != "system calls"]
    if tried and len(tried[0]) == 2:
        wall, reached = tried[0]
        raise _missing(rung, str(wall), str(reached))
    if tried != [["end"]]:
        raise IsolationFailed(f"self-test of the rung {rung}: it did not run: {_said(found)}")
    if changed:
        raise _missing(rung, "files", "a file outside has changed")
    spun = box.execute(Command(files={"main.py": "while True: pass"}), _SPIN_LIMITS)
    if spun.ended_by != "cpu_time":
        raise _missing(rung, "limits", f"an endless program ended by {spun.ended_by}")


def _make_world(stack: ExitStack, *, may_be_user_0: bool) -> tuple[dict[str, Any], Path]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="preceptor-outside-")))
    folder.chmod(0o755)
    secret, target = folder / "secret", folder / "target"
    secret.write_bytes(_CONTENTS)
    target.write_bytes(_CONTENTS)
    target.chmod(0o666)
    name = f"preceptor-{secrets.token_hex(8)}"
    port = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
    abstract.bind("\0" + name)
    abstract.listen()
    world = {
        "secret_file": str(secret),
        "target_file": str(target),
        "port": port.getsockname()[1],
        "abstract": name,
        "pid": os.getpid(),
        "environment": list(_ENVIRONMENT),
        "memory_mb": _LIMITS.memory_mb,
        # Of a kernel of its own that an ordinary user runs, and without capabilities even there.
        "may_be_user_0": may_be_user_0,
    }
    return world, target


def _command(world: dict[str, Any]) -> Command:
    return Command(files={"main.py": _PROGRAM.read_bytes()}, stdin=json.dumps(world).encode())


def _missing(rung: object, wall: str, reached: str) -> IsolationFailed:
    advice = ADVICE.get(wall, "")
    return IsolationFailed(
        f"self-test of the rung {rung}: the wall `{wall}` is missing: {reached}; {advice}, "
        "or choose another rung"
    )


def _said(found: Execution) -> str:
    text = found.stderr.decode("utf-8", "replace").strip().splitlines()
    return f"ended by {found.ended_by}, {text[-1] if text else 'without a word'}"
