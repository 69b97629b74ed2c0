"""The walls of one sandbox, by its settings: entered once, and closed around each child."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
from typing import Any

from preceptor_services.sandbox.inside import landlock, leftovers, linux, namespaces, seccomp
from preceptor_services.sandbox.inside.tree import Tree

_KEPT = (
    linux.CAP_CHOWN, linux.CAP_DAC_OVERRIDE, linux.CAP_FOWNER, linux.CAP_KILL,
    linux.CAP_SETGID, linux.CAP_SETUID, linux.CAP_SYS_CHROOT, linux.CAP_SYS_PTRACE,
    linux.CAP_SYS_ADMIN,
)  # fmt: skip
"""What the keeper needs, where it has it: to make folders, change users, kill and measure."""


class Walls:
    """Enters what the settings ask for, or raises OSError: a wall is there or nothing runs."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._in_namespaces = bool(settings["namespaces"])
        self._private_user = os.geteuid() == 0
        self._uid = settings["uid"] if self._private_user else os.geteuid()
        self._gid = settings["uid"] if self._private_user else os.getegid()
        self._rules = landlock.Rules(settings["visible"]) if settings["landlock"] else None
        self._proc = self._enter()
        self.tree = Tree(self._proc, whole=os.getpid() == 1)
        if os.getpid() != 1:
            linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        linux.prctl(linux.PR_SET_DUMPABLE, 0)  # no child of the same user may trace this process
        if self._private_user:
            os.setgroups([])
        linux.keep_capabilities(*_KEPT)
        self._filter = self._build_filter() if settings["seccomp"] else None

    @property
    def bounded_folder(self) -> bool:
        """Whether the folder's own file system limits what is written to it."""
        return self._in_namespaces

    @property
    def counts_foreign_tasks(self) -> bool:
        """Whether the kernel counts processes outside of the sandbox for the same user."""
        return not (self._private_user or self._in_namespaces or os.getpid() == 1)

    def describe(self) -> dict[str, Any]:
        reached = self._settings["probe_port"] and _reaches(self._settings["probe_port"])
        filtered = self._filter is not None
        inside = self._in_namespaces or os.getpid() == 1
        return {
            "network": "no sockets"
            if filtered and not inside
            else "open"
            if reached
            else "namespace",
            "processes": "namespace" if inside else "landlock" if self._rules else "open",
            "files": "own root" if inside else "landlock" if self._rules else "open",
            "user": "unprivileged" if self._private_user or inside else "the service's own",
            "system_calls": "filtered" if filtered else "open",
        }

    def make_folder(self, size_mb: int) -> str:
        if self._in_namespaces:
            return namespaces.mount_folder(size_mb, self._uid, self._gid)
        folder = self._settings["folder"]
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        if self._private_user:
            os.chown(folder, self._uid, self._gid)
        return folder

    def remove_folder(self, folder: str) -> None:
        if self._in_namespaces:
            namespaces.unmount_folder()
        else:
            leftovers.empty(folder)

    def foreign_tasks(self) -> int:
        """Processes and threads of the same user, where the kernel counts them together."""
        if not self.counts_foreign_tasks or self._proc is None:
            return 0
        total = 0
        for name in os.listdir(self._proc):
            if name.isdigit():
                with contextlib.suppress(OSError):
                    status = os.stat(f"{name}/task", dir_fd=self._proc)
                    total += status.st_nlink - 2 if status.st_uid == self._uid else 0
        return total + 1  # the keeper itself, which does not show its user

    def become_the_user(self) -> None:
        """For a child: its own user, with no privilege."""
        if self._private_user:
            os.setresgid(self._gid, self._gid, self._gid)
            os.setresuid(self._uid, self._uid, self._uid)  # the capabilities go with the user
        else:
            linux.keep_capabilities()
            linux.prctl(linux.PR_SET_DUMPABLE, 1)  # or the keeper could not measure its memory

    def be_ended_first(self) -> None:
        """For a child: the kernel ends it and not the keeper where their memory ends."""
        if self._proc is not None:
            with contextlib.suppress(OSError):
                fd = os.open("self/oom_score_adj", os.O_WRONLY, dir_fd=self._proc)
                os.write(fd, b"1000")
                os.close(fd)

    def close(self, folder: str | None) -> None:
        """For a child: nothing but its folder and what is visible; nothing at all without one."""
        if folder is None and (self._in_namespaces or self._settings["empty"]):
            os.chroot(self._settings["empty"] or namespaces.EMPTY)
            os.chdir("/")
        if self._rules is not None:
            self._rules.restrict(folder)

    def filter_calls(self) -> None:
        """For a child, last: most of the setting up needs calls that the filter refuses."""
        if self._filter is not None:
            self._filter.restrict(os.getpid())

    def _enter(self) -> int | None:
        if self._in_namespaces:
            return namespaces.enter(self._settings["root"], self._settings["visible"])
        with contextlib.suppress(OSError):
            return os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        return None

    def _build_filter(self) -> seccomp.Filter:
        own_root = self._in_namespaces or os.getpid() == 1
        version = landlock.version() if self._rules else 0
        code = seccomp.program(
            platform.machine(),
            own_user=self._private_user or own_root,
            only_signals_itself=not own_root and version < landlock.SIGNALS_SINCE,
            no_truncate=not own_root and version < landlock.TRUNCATE_SINCE,
        )
        return seccomp.Filter(code)


def _reaches(port: int) -> bool:
    """Whether the service's own listener can be reached from the keeper."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0
