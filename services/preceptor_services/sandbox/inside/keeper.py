"""The process that stays in a sandbox: it forks a child for each run, and kills what is left of it.

It starts with a socket to the service as standard input. It never receives a task or a result: a
child reads its request from a descriptor that only passes through here, and writes its results to
descriptors that the service reads. So nothing of one attempt is in memory when the next is forked.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import select
import socket
import stat
import sys
import time
from typing import Any

from preceptor_services.sandbox.inside import child
from preceptor_services.sandbox.inside.walls import Walls

_LARGEST_MESSAGE = 65_536
_SHORTEST_LOOK_S, _LONGEST_LOOK_S = 0.01, 0.05
_NUM_CPUS = os.cpu_count() or 1


class ServiceGone(Exception):
    """The service has closed its end."""


def main() -> None:
    control = socket.socket(fileno=os.dup(0))
    null = os.open("/dev/null", os.O_RDWR)
    library = sys.path[1:]  # without the folder of this module
    for name in (*child.PRELOADED, *child.PRELOADED_FOR_COMMANDS):
        importlib.import_module(name)
    sys.set_int_max_str_digits(0)  # the limit on processor time suffices
    settings = json.loads(_receive(control)[0])
    try:
        walls = Walls(settings)
    except OSError as error:
        _send(control, {"refused": error.strerror or str(error)})
        return
    for what in (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE):
        resource.setrlimit(what, (0, 0))  # for all children
    sys.path[:] = [*library, *settings["packages"]]
    for fd in (0, 1, 2):  # errors before this line go to the service's log
        os.dup2(null, fd)
    os.close(null)
    _send(control, walls.describe())
    gc.collect()
    gc.freeze()
    with contextlib.suppress(ServiceGone):
        while True:
            text, fds = _receive(control)
            if fds:
                _serve(control, json.loads(text), fds, walls)


def _serve(control: socket.socket, asked: dict[str, Any], fds: list[int], walls: Walls) -> None:
    limits = asked["limits"]
    folder = walls.make_folder(limits["files_mb"]) if asked["mode"] == "command" else None
    if folder is not None:
        limits["processes"] += walls.foreign_tasks()
    ready, ready_child = os.pipe()
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        child.run(asked, fds, walls, folder, ready_child)
    for fd in (ready_child, *fds):
        os.close(fd)
    try:
        ended = _watch(control, pid, limits, walls, folder)
    finally:
        status, usage = walls.tree.end(pid)
    was_ready = os.read(ready, 4096)
    os.close(ready)
    kept = _open_kept(folder, asked["keep"])
    if folder is not None:
        walls.remove_folder(folder)
    # Looked at the tree before its end, because who is killed is not counted with who waited.
    cpu = max(ended["cpu_seconds"], usage.ru_utime + usage.ru_stime)
    reply = {
        "status": os.waitstatus_to_exitcode(status),
        "ended": ended["by"],
        "cpu_seconds": cpu,
        "wall_seconds": time.monotonic() - started,
        "peak_memory_mb": usage.ru_maxrss / 1024,
        "set_up": was_ready.decode("utf-8", "replace"),
        "kept": [name for name, _ in kept],
    }
    _send(control, reply, [fd for _, fd in kept])
    for _, fd in kept:
        os.close(fd)


def _watch(
    control: socket.socket, pid: int, limits: dict[str, Any], walls: Walls, folder: str | None
) -> dict[str, Any]:
    """Waits until the first process ends, the service wants an end, or a limit is reached."""
    deadline = time.monotonic() + limits["timeout_s"]
    poll = select.poll()
    poll.register(control, select.POLLIN)
    ended_fd = _pidfd(pid)
    if ended_fd is not None:
        poll.register(ended_fd, select.POLLIN)
    parallel = min(_NUM_CPUS, max(1, limits["processes"]))
    cpu = 0.0
    try:
        while True:
            left = (limits["cpu_seconds"] - cpu) / parallel
            wait = max(_SHORTEST_LOOK_S, left)
            if folder is not None:
                wait = min(wait, _LONGEST_LOOK_S)
            wait = min(wait, max(0.0, deadline - time.monotonic()))
            if ended_fd is None:
                wait = min(wait, 0.005)
            ready = [fd for fd, _ in poll.poll(wait * 1000 + 1)]
            if control.fileno() in ready:
                _receive(control)  # of the service that has read enough; its end is ours too
                return {"by": "output", "cpu_seconds": cpu}
            usage = walls.tree.usage(pid, whole=folder is not None)
            cpu = max(cpu, usage.cpu_seconds)
            if ended_fd in ready or (ended_fd is None and _has_ended(pid)):
                return {
                    "by": "cpu_time" if cpu >= limits["cpu_seconds"] else None,
                    "cpu_seconds": cpu,
                }
            if cpu >= limits["cpu_seconds"]:
                return {"by": "cpu_time", "cpu_seconds": cpu}
            if time.monotonic() >= deadline:
                return {"by": "wall_time", "cpu_seconds": cpu}
            if folder is None:
                continue
            limit = limits["memory_mb"] << 20
            if usage.memory_bytes > limit and walls.tree.memory_without_shared() > limit:
                return {"by": "memory", "cpu_seconds": cpu}
            if not walls.bounded_folder and _is_larger(folder, limits["files_mb"] << 20):
                return {"by": "files", "cpu_seconds": cpu}
    finally:
        if ended_fd is not None:
            os.close(ended_fd)


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _is_larger(folder: str, limit: int) -> bool:
    total, waiting, num_entries = 0, [folder], 0
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                num_entries += 1
                with contextlib.suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                if total > limit or num_entries > 8192:
                    return True
    return False


def _open_kept(folder: str | None, names: list[str]) -> list[tuple[str, int]]:
    """Regular files only, opened without following a link at their last step or above."""
    found: list[tuple[str, int]] = []
    for name in names if folder is not None else ():
        with contextlib.suppress(OSError):
            at = os.open(str(folder), os.O_RDONLY | os.O_DIRECTORY)
            for part in name.split("/"):
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
                try:
                    fd = os.open(part, flags, dir_fd=at)
                finally:
                    os.close(at)
                at = fd
            if stat.S_ISREG(os.fstat(at).st_mode):
                found.append((name, at))
            else:
                os.close(at)
    return found


def _receive(control: socket.socket) -> tuple[str, list[int]]:
    """One message, with descriptors where it is a run."""
    data, fds, _, _ = socket.recv_fds(control, _LARGEST_MESSAGE, 8)
    if not data:
        raise ServiceGone
    return data.decode(), fds


def _send(control: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> None:
    data = json.dumps(message).encode()
    if fds:
        socket.send_fds(control, [data], fds)
    else:
        control.sendall(data)
