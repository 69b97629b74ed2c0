"""The inside of the process sandbox: a small interpreter that forks one child per attempt.

It runs as a script, by its path, with the standard library only; its standard input is a socket to
the service. It first isolates itself (own network, processes and empty root directory where the
kernel allows them) and reports the protections in force. Then it serves attempts one by one: fork,
limits, unprivileged user, run, read a bounded reply, kill the remaining processes. Interpreter and
modules are loaded once, so that an attempt costs about a millisecond.

This process holds no secrets: it receives inputs and returns values; expected values stay outside.
The reply pipe of a child is untrusted: the program can write anything to it.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import gc
import importlib
import json
import math
import os
import random
import resource
import select
import signal
import socket
import struct
import sys
import time
from typing import Any, NoReturn, cast

CLONE_NEWUTS, CLONE_NEWIPC = 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
CAPABILITY_VERSION_3 = 0x20080522
REPLY_FD = 3
PRELOADED = (
    "bisect", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq",
    "itertools", "operator", "re", "statistics", "string", "unicodedata",
)  # fmt: skip
"""Modules that a program may import although it sees no files."""
MAX_ERROR_CHARS = 400

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    control = socket.socket(fileno=os.dup(0))
    null = os.open("/dev/null", os.O_RDWR)
    for name in PRELOADED:
        importlib.import_module(name)
    sys.set_int_max_str_digits(0)  # the limit on processor time suffices
    sys.path.clear()  # the same modules at every level of isolation
    settings, _ = receive(control)
    described = lock_in(settings)
    for fd in (0, 1, 2):  # errors before this line go to the service's log
        os.dup2(null, fd)
    os.close(null)
    send(control, described)
    gc.collect()
    gc.freeze()
    while True:
        request, _ = receive(control)
        header, reply = run(request, settings, control.fileno())
        send(control, header, reply)


# ---------------------------------------------------------------- messages


def receive(control: socket.socket) -> tuple[dict[str, Any], bytes]:
    """One message; the process exits when the service has closed the socket."""
    header_len, body_len = struct.unpack("<II", _read(control, 8))
    header = json.loads(_read(control, header_len))
    return header, _read(control, body_len)


def send(control: socket.socket, header: dict[str, Any], body: bytes = b"") -> None:
    text = json.dumps(header).encode()
    control.sendall(struct.pack("<II", len(text), len(body)) + text + body)


def _read(control: socket.socket, size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        part = control.recv(min(size, 1 << 20))
        if not part:
            os._exit(0)
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


# ---------------------------------------------------------------- locking in


def lock_in(settings: dict[str, Any]) -> dict[str, Any]:
    """Drops as many privileges as possible; returns the protections in force."""
    refused: list[str] = []
    is_root = os.geteuid() == 0
    namespaces = _leave_namespaces(is_root, refused)
    if not namespaces:
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
    empty_root = _enter_empty_root(settings["root"], refused)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _prctl(PR_SET_DUMPABLE, 0)  # no child of the same user may trace this process
    if is_root:
        os.setgroups([])
    else:
        _drop_capabilities()
    reached = _reaches(settings["probe_port"])
    return {
        "level": "namespaces" if namespaces and empty_root and not reached else "process",
        "network": "namespace" if namespaces and not reached else "open",
        "processes": "namespace" if namespaces else "open",
        "files": "empty root" if empty_root else "open",
        "user": "unprivileged" if is_root else "the service's own",
        "refused": refused,
    }


def _leave_namespaces(is_root: bool, refused: list[str]) -> bool:
    """Enters own network, process and IPC namespaces; a user other than root needs a user
    namespace."""
    flags = CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS
    if not is_root:
        flags |= CLONE_NEWUSER
    if _libc.unshare(flags) != 0:
        refused.append(f"unshare: {os.strerror(ctypes.get_errno())}")
        return False
    # Only children enter the new process namespace; the first child, its init, serves attempts.
    pid = os.fork()
    if pid:
        os.closerange(0, 64)
        _, status = os.waitpid(pid, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0x7F)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    return True


def _enter_empty_root(root: str, refused: list[str]) -> bool:
    try:
        os.chroot(root)
    except OSError as error:
        refused.append(f"chroot: {error.strerror}")
        os.chdir("/")
        return False
    os.chdir("/")
    return True


def _drop_capabilities() -> None:
    header = struct.pack("<II", CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _reaches(port: int) -> bool:
    """Whether the service's own listener can be reached from here."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


# ---------------------------------------------------------------- one attempt


def run(
    request: dict[str, Any], settings: dict[str, Any], control_fd: int
) -> tuple[dict[str, Any], bytes]:
    limits = request["limits"]
    deadline = time.monotonic() + limits["timeout_s"]
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(request, settings, write_fd)
    os.close(write_fd)
    reply, ended = _read_reply(read_fd, limits["output_bytes"], deadline)
    _kill_all(pid)
    _, status, usage = os.wait4(pid, 0)
    _reap()
    # After the last process has ended, so that none can write any more.
    os.close(read_fd)
    code = os.waitstatus_to_exitcode(status)
    out_of_time = code in (-signal.SIGPROF, -signal.SIGXCPU) or (
        usage.ru_utime + usage.ru_stime >= limits["cpu_seconds"]
    )
    if ended == "finished" and code != 0:
        ended = "timeout" if out_of_time else "crashed"
    return {"ended": ended}, reply


def _read_reply(fd: int, limit: int, deadline: float) -> tuple[bytes, str]:
    os.set_blocking(fd, False)
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLHUP)
    parts: list[bytes] = []
    room = limit
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(math.ceil(left * 1000)):
            return b"".join(parts), "timeout"
        part = os.read(fd, 65_536)
        if not part:
            return b"".join(parts), "finished"
        parts.append(part[:room])
        room -= len(part)
        if room < 0:
            return b"".join(parts), "output_limit"


def _kill_all(pid: int) -> None:
    """Kills the child and its descendants; in a process namespace, every other process."""
    targets = (-1,) if os.getpid() == 1 else (-pid, pid)
    for target in targets:
        # the child may have ended, or may not lead its own group yet
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(target, signal.SIGKILL)


def _reap() -> None:
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        return


def _child(request: dict[str, Any], settings: dict[str, Any], write_fd: int) -> NoReturn:
    """Runs the attempt and exits. It never returns, since a child must not serve attempts."""
    try:
        os.setsid()
        os.dup2(write_fd, REPLY_FD)
        os.closerange(REPLY_FD + 1, 1024)
        _limit(request["limits"], settings["uid"])
        _write({"ready": True})
        _run_cases(request["program"], request["entry"], request["inputs"])
        os._exit(0)
    except BaseException:
        os._exit(1)


def _limit(limits: dict[str, Any], uid: int) -> None:
    cpu = math.ceil(limits["cpu_seconds"])
    memory = limits["memory_mb"] << 20
    for what, soft, hard in (
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
        (resource.RLIMIT_NOFILE, REPLY_FD + 1, REPLY_FD + 1),
        (resource.RLIMIT_NPROC, 0, 0),
    ):
        resource.setrlimit(what, (soft, hard))
    if os.geteuid() == 0:
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        _prctl(PR_SET_DUMPABLE, 0)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which clears it
    # Finer than RLIMIT_CPU, which counts whole seconds but cannot be disarmed by the program.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, limits["cpu_seconds"])


def _run_cases(program: str, entry: str, inputs: list[str]) -> None:
    try:
        code = compile(program, "<response>", "eval")
    except BaseException as error:
        _write({"program_error": _line(error)})
        return
    random.seed(0)  # fork has reseeded it
    for text in inputs:
        names: dict[str, Any] = {"__builtins__": builtins, entry: json.loads(text)}
        try:
            result = _result(eval(code, names))
            encoded = json.dumps(result, allow_nan=False).encode()
        except BaseException as error:
            encoded = json.dumps({"error": _line(error)}).encode()
        _write_all(encoded + b"\n")


def _result(value: Any) -> dict[str, Any]:
    if _is_plain(value):
        return {"value": value}
    return {"other": repr(value)[:MAX_ERROR_CHARS]}


def _is_plain(value: Any) -> bool:
    """Whether the value is the same, with the same types, after a JSON round trip."""
    kind = cast("type[Any]", type(value))
    if kind is list:
        return all(_is_plain(item) for item in value)
    if kind is dict:
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    if kind is float:
        return math.isfinite(value)
    return value is None or kind in (bool, int, str)


def _line(error: BaseException) -> str:
    """The last line of the traceback; of a SyntaxError, the part without its position."""
    try:
        message = str(error.msg if isinstance(error, SyntaxError) else error)
        return f"{type(error).__name__}: {message}"[:MAX_ERROR_CHARS]
    except BaseException:
        return "an exception without a message"


def _write(message: dict[str, Any]) -> None:
    _write_all(json.dumps(message).encode() + b"\n")


def _write_all(data: bytes) -> None:
    while data:
        data = data[os.write(REPLY_FD, data) :]


if __name__ == "__main__":
    main()
