"""Own network, processes, IPC and mounts, with a root that holds only what is named."""

from __future__ import annotations

import os
import platform
import signal

from preceptor_services.sandbox.inside import linux

_FLAGS = (
    linux.CLONE_NEWNET | linux.CLONE_NEWPID | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
    | linux.CLONE_NEWNS | linux.CLONE_NEWCGROUP
)  # fmt: skip
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
FOLDER, EMPTY = "/tmp", "/empty"


def enter(root: str, visible: list[str]) -> int:
    """Enters namespaces whose first process this becomes; a descriptor of their /proc.

    A user other than root needs a user namespace for it.

    Args:
        root: An empty folder, to mount the new root on.
        visible: Paths of the machine that stay readable.
    """
    user, group = os.geteuid(), os.getegid()
    flags = _FLAGS if user == 0 else _FLAGS | linux.CLONE_NEWUSER
    linux.checked(linux.libc.unshare(flags), "unshare")
    if user != 0:
        _map_to_itself(user, group)
    # Only children enter the new process namespace; the first child, its init, keeps it.
    pid = os.fork()
    if pid:
        os.closerange(0, 64)
        _, status = os.waitpid(pid, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0x7F)
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    linux.mount("none", "/", "", linux.MS_REC | linux.MS_PRIVATE)
    _build(root, visible)
    return _enter_root(root)


def mount_folder(size_mb: int, uid: int, gid: int) -> str:
    """A private folder of one run, in memory."""
    options = f"size={size_mb}m,nr_inodes=8192,mode=0700,uid={uid},gid={gid}"
    linux.mount("tmpfs", FOLDER, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, options)
    return FOLDER


def unmount_folder() -> None:
    linux.unmount(FOLDER)


def _map_to_itself(user: int, group: int) -> None:
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _build(root: str, visible: list[str]) -> None:
    linux.mount("tmpfs", root, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=1m,mode=0755")
    for path in visible:
        _show(root, path)
    os.mkdir(f"{root}/dev")
    for device in DEVICES:
        os.close(os.open(root + device, os.O_CREAT, 0o666))
        linux.mount(device, root + device, "", linux.MS_BIND)
    for name in ("fd", "stdin", "stdout", "stderr"):
        number = {"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"}[name]
        os.symlink(f"/proc/self/fd{number}", f"{root}/dev/{name}")
    for folder in (FOLDER, EMPTY, "/old"):
        os.mkdir(root + folder)


def _show(root: str, path: str) -> None:
    """Makes a path of the machine readable under the new root, at the same place."""
    target = root + path
    if os.path.lexists(target) or not os.path.lexists(path):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT, 0o444))
    linux.mount(path, target, "", linux.MS_BIND | linux.MS_REC)
    # The attributes of this call have the numbers of `mount`'s flags.
    linux.set_mount_flags(target, linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV)


def _enter_root(root: str) -> int:
    os.chdir(root)
    call = linux.SYS_PIVOT_ROOT[platform.machine()]
    linux.syscall("pivot_root", call, b".", b"old")
    os.chdir("/")
    # The process list of this namespace: seen through a descriptor, and by no program.
    linux.mount("proc", FOLDER, "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    proc = os.open(FOLDER, os.O_RDONLY | os.O_DIRECTORY)
    linux.unmount(FOLDER)
    linux.unmount("/old")
    os.rmdir("/old")
    linux.mount("none", "/", "", 0x20 | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV)
    return proc
