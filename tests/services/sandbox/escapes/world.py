"""What lies outside of a sandbox in the tests: files, sockets, a process and a secret.

All of it is as open as the machine allows (files for everyone, the process of the program's own
user), so that only the sandbox's walls protect it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from preceptor_services.sandbox.command import CommandLimits
from preceptor_services.sandbox.isolation import user_of

IPC_KEY = 0x7E57ED
_LIBC = ctypes.CDLL(None, use_errno=True)
_CONTENTS = "as it was"


class World:
    """Made before the sandbox starts, so that its secret is in the service's environment."""

    def __init__(self) -> None:
        self.secret = secrets.token_hex(12)
        os.environ["PRECEPTOR_TEST_SECRET"] = self.secret
        self.folder = Path(tempfile.mkdtemp(prefix="preceptor-world-"))
        self.folder.chmod(0o777)
        self.secret_file, self.target = self.folder / "secret", self.folder / "target"
        self.secret_file.write_text(self.secret)
        self.target.write_text(_CONTENTS)
        self.target.chmod(0o666)
        self._open_sockets()
        self._leak = os.open(self.secret_file, os.O_RDONLY)
        os.set_inheritable(self._leak, True)
        self._victim = self._start_victim()
        self._share_memory()

    def _open_sockets(self) -> None:
        name = secrets.token_hex(6)
        self.listener = socket.create_server(("0.0.0.0", 0))
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind(("127.0.0.1", 0))
        self.file, self.abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        self.file.bind(str(self.folder / "socket"))
        (self.folder / "socket").chmod(0o777)
        self.abstract.bind("\0" + name)
        self.abstract_datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.abstract_datagrams.bind("\0" + name + "-datagram")
        self.file.listen()
        self.abstract.listen()
        self._name = name

    def _start_victim(self) -> subprocess.Popen[bytes]:
        user: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = {"user": user_of(0), "group": user_of(0), "extra_groups": []}
        return subprocess.Popen(["/bin/sleep", "600"], cwd="/", **user)

    def _share_memory(self) -> None:
        segment = _LIBC.shmget(IPC_KEY, 4096, 0o1666)
        _LIBC.shmat.restype = ctypes.c_void_p
        address = _LIBC.shmat(segment, None, 0)
        ctypes.memmove(address, self.secret.encode(), len(self.secret))
        self._segment = segment

    def addresses(self, limits: CommandLimits) -> dict[str, Any]:
        """What the attempts know: where things are, and the secret backwards."""
        buffer = ctypes.create_string_buffer(16)
        self._buffer = buffer
        return {
            "secret": self.secret[::-1],
            "secret_file": str(self.secret_file),
            "target_file": str(self.target),
            "open_folder": str(self.folder),
            "port": self.listener.getsockname()[1],
            "datagram_port": self.datagrams.getsockname()[1],
            "address": own_address(),
            "socket_file": str(self.folder / "socket"),
            "abstract": self._name,
            "abstract_datagram": self._name + "-datagram",
            "victim_pid": self._victim.pid,
            "victim_address": ctypes.addressof(buffer),
            "service_pid": os.getpid(),
            "ipc_key": IPC_KEY,
            "processes": limits.processes,
            "memory_mb": limits.memory_mb,
            "files_mb": limits.files_mb,
        }

    def changes(self) -> list[str]:
        """What has changed out here that nothing in a sandbox may change."""
        found: list[str] = []
        expected = {"secret", "target", "socket"}
        if extra := {path.name for path in self.folder.iterdir()} ^ expected:
            return [f"files appeared or went: {sorted(extra)}"]
        if self.target.read_text() != _CONTENTS or self.target.stat().st_mode & 0o777 != 0o666:
            found.append("a file was changed")
        if self.target.stat().st_mtime == 0:
            found.append("the times of a file were changed")
        if self._victim.poll() is not None or _state(self._victim.pid) == "T":
            found.append("a foreign process was stopped")
        readable, _, _ = select.select(self._sockets(), [], [], 0)
        if readable:
            found.append(f"{len(readable)} sockets were reached")
        return found

    def _sockets(self) -> list[socket.socket]:
        named = [self.listener, self.datagrams, self.file, self.abstract]
        return [*named, self.abstract_datagrams]

    def close(self) -> None:
        for one in (
            self.listener,
            self.datagrams,
            self.file,
            self.abstract,
            self.abstract_datagrams,
        ):
            one.close()
        os.close(self._leak)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._victim.pid, signal.SIGKILL)
        self._victim.wait()
        _LIBC.shmctl(self._segment, 0, None)
        shutil.rmtree(self.folder, ignore_errors=True)
        del os.environ["PRECEPTOR_TEST_SECRET"]


def own_address() -> str:
    """An address of this machine on a network, or the local one where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
