"""One run, in a process of its own: its descriptors, walls and limits, then the program."""

from __future__ import annotations

import atexit
import builtins
import fcntl
import json
import math
import os
import random
import resource
import signal
import sys
import threading
import traceback
import types
from typing import TYPE_CHECKING, Any, NoReturn

from preceptor_services.sandbox.inside import linux
from preceptor_services.sandbox.inside.evaluate import run_cases, write_all

if TYPE_CHECKING:
    from preceptor_services.sandbox.inside.walls import Walls

RESULT_FD = 3
_READY_FD = 4
PRELOADED = (
    "bisect", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq",
    "itertools", "operator", "re", "statistics", "string", "unicodedata",
)  # fmt: skip
"""Modules that an expression may import although it sees no files."""
PRELOADED_FOR_COMMANDS = ("array", "io", "queue", "threading", "typing")
"""Imported once for all programs, which may import any other module too."""
_MAX_FILES = 256


def run(
    asked: dict[str, Any], fds: list[int], walls: Walls, folder: str | None, ready: int
) -> NoReturn:
    """Runs the program and exits. It never returns, since a child must not serve others."""
    try:
        os.setsid()
        walls.be_ended_first()
        request = _take_descriptors(fds, ready)
        if folder is None:
            _prepare_expression(asked["limits"], walls)
            run_cases(request["program"], request["entry"], request["inputs"])
            os._exit(0)
        warm = request["argv"][0] == "python" and len(request["argv"]) > 1
        warm = warm and not request["argv"][1].startswith("-")
        _prepare_command(asked["limits"], walls, folder, request["files"], warm)
        if warm:
            _run_python(request["argv"][1:], folder)
        _execute(request["argv"], folder)
    except BaseException as error:
        _report(f"{type(error).__name__}: {error}")
        os._exit(1)


def _take_descriptors(fds: list[int], ready: int) -> dict[str, Any]:
    """Puts the descriptors where the program expects them, and reads the request."""
    request, *theirs = [_move_up(fd) for fd in fds]
    ready = _move_up(ready)
    text = b""
    while part := os.read(request, 1 << 20):
        text += part
    os.close(request)
    numbers = (0, 1, 2, RESULT_FD) if len(theirs) == 4 else (RESULT_FD,)
    for fd, number in zip(theirs, numbers, strict=True):
        os.dup2(fd, number)
    os.dup2(ready, _READY_FD, inheritable=False)
    os.closerange(_READY_FD + 1, 1024)
    length, _, rest = text.partition(b"\n")
    found = json.loads(rest[: int(length)])
    _take_files(found, rest[int(length) :])
    return found


def _move_up(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD, 64)


def _take_files(request: dict[str, Any], contents: bytes) -> None:
    """The files follow the request as they are: their sizes are in it."""
    at = 0
    files: dict[str, bytes] = {}
    for name, size in request.get("files", {}).items():
        files[name] = contents[at : at + size]
        at += size
    request["files"] = files


def _prepare_expression(limits: dict[str, Any], walls: Walls) -> None:
    walls.close(None)
    memory = limits["memory_mb"] << 20
    walls.become_the_user()
    _set_limits(limits, {resource.RLIMIT_AS: memory, resource.RLIMIT_FSIZE: 0})
    resource.setrlimit(resource.RLIMIT_NOFILE, (_READY_FD, _READY_FD))
    sys.path.clear()
    for name in PRELOADED_FOR_COMMANDS:
        sys.modules.pop(name, None)
    walls.filter_calls()
    _report("ready")


def _prepare_command(
    limits: dict[str, Any], walls: Walls, folder: str, files: dict[str, bytes], warm: bool
) -> None:
    walls.close(folder)
    walls.become_the_user()
    os.chdir(folder)
    os.umask(0o077)
    for name, contents in files.items():
        _write_file(name, contents)
    memory = limits["memory_mb"] << 20
    sizes = {
        # The address space of other interpreters is far above what they use of it.
        resource.RLIMIT_AS if warm else resource.RLIMIT_DATA: memory,
        resource.RLIMIT_FSIZE: limits["files_mb"] << 20,
    }
    _set_limits(limits, sizes)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_FILES, _MAX_FILES))
    walls.filter_calls()
    _report("ready")


def _write_file(name: str, contents: bytes) -> None:
    if os.path.dirname(name):
        os.makedirs(os.path.dirname(name), exist_ok=True)
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o700)
    try:
        write_all(fd, contents)
    finally:
        os.close(fd)


def _set_limits(limits: dict[str, Any], sizes: dict[int, int]) -> None:
    """The kernel's own limits. The keeper measures time more finely, and all processes together."""
    cpu = math.ceil(limits["cpu_seconds"])
    every = {
        resource.RLIMIT_CPU: cpu + 1,
        resource.RLIMIT_NPROC: limits["processes"],
        **sizes,
    }
    for what, most in every.items():
        resource.setrlimit(what, (most, most))
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of user clears it


def _report(text: str) -> None:
    """Tells the keeper, before the program can, that the walls are there; or why not."""
    try:
        os.write(_READY_FD, text.encode()[:2048])
        os.close(_READY_FD)
    except OSError:
        return


# ---------------------------------------------------------------- commands


def _environment(folder: str) -> dict[str, str]:
    return {
        "HOME": folder,
        "LC_ALL": "C.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHONHASHSEED": "0",
        "TMPDIR": folder,
    }


def _execute(argv: list[str], folder: str) -> NoReturn:
    program = os.path.realpath(sys.executable) if argv[0] == "python" else argv[0]
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which an interpreter ignores
        signal.signal(number, signal.SIG_DFL)
    os.set_inheritable(RESULT_FD, True)
    try:
        os.execvpe(program, argv, _environment(folder))
    except OSError as error:
        os.write(2, f"cannot run {argv[0]}: {error.strerror}\n".encode())
        os._exit(127)


def _run_python(argv: list[str], folder: str) -> NoReturn:
    """Runs a file as an interpreter would that has just started."""
    os.environ.clear()
    os.environ.update(_environment(folder))
    sys.argv = list(argv)
    sys.path.insert(0, folder)
    for name, fd, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        stream = open(  # noqa: SIM115 (it stays open)
            fd, mode, encoding="utf-8", errors="surrogateescape", closefd=False
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    random.seed(0)  # one program, one outcome; fork has reseeded it
    code = _finish(_run_file(argv[0]))
    os._exit(code)


def _run_file(name: str) -> int:
    module = types.ModuleType("__main__")
    module.__dict__.update({"__file__": name, "__builtins__": builtins})
    sys.modules["__main__"] = module
    try:
        with open(name, "rb") as file:
            code = compile(file.read(), name, "exec", dont_inherit=True)
        exec(code, module.__dict__)
    except SystemExit as error:
        return _exit_code(error)
    except BaseException as error:
        _print_error(error, name)
        return 1
    return 0


def _exit_code(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    sys.stderr.write(f"{error.code}\n")
    return 1


def _print_error(error: BaseException, name: str) -> None:
    """The traceback, without the frames of this module."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    traceback.print_exception(type(error), error, frames, file=sys.stderr)


def _finish(code: int) -> int:
    """What an interpreter does at its end: threads, functions for the exit, unwritten output."""
    try:
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
    except BaseException as error:
        _print_error(error, "")
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        return 120
    return code
