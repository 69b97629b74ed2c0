"""System calls that Python does not offer, and their constants."""

from __future__ import annotations

import ctypes
import os
import struct

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWTIME = 0x10000000, 0x20000000, 0x40000000, 0x80
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP = 1, 4, 22
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND = 1, 2, 4, 8, 4096
MS_REC, MS_PRIVATE, MNT_DETACH, AT_FDCWD, AT_RECURSIVE = 16384, 1 << 18, 2, -100, 0x8000
CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_KILL, CAP_SETGID, CAP_SETUID = 0, 1, 3, 5, 6, 7
CAP_SYS_CHROOT, CAP_SYS_PTRACE, CAP_SYS_ADMIN = 18, 19, 21
# Numbers that x86_64 and aarch64 share, or that only they are looked up for.
SYS_LANDLOCK_CREATE, SYS_LANDLOCK_ADD, SYS_LANDLOCK_RESTRICT, SYS_MOUNT_SETATTR = 444, 445, 446, 442
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPABILITY_VERSION_3 = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def checked(result: int, what: str) -> int:
    """The result of a call of libc, or its error as an exception that names the call."""
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def prctl(option: int, value: int, what: str = "prctl") -> None:
    checked(libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"{what} {option}")


def syscall(what: str, number: int, *arguments: object) -> int:
    return checked(libc.syscall(ctypes.c_long(number), *arguments), what)


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    result = libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()
    )
    checked(result, f"mount {target}")


def unmount(target: str) -> None:
    checked(libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def set_mount_flags(target: str, flags: int) -> None:
    """Adds flags to a mount and all mounts below it."""
    attributes = ctypes.create_string_buffer(struct.pack("<QQQQ", flags, 0, 0, 0), 32)
    syscall(
        f"mount_setattr {target}",
        SYS_MOUNT_SETATTR,
        ctypes.c_int(AT_FDCWD),
        ctypes.c_char_p(target.encode()),
        ctypes.c_uint(AT_RECURSIVE),
        attributes,
        ctypes.c_size_t(32),
    )


def keep_capabilities(*kept: int) -> None:
    """Gives up all capabilities except these, as far as this process has them."""
    header = struct.pack("<II", _CAPABILITY_VERSION_3, 0)
    now = ctypes.create_string_buffer(24)
    checked(libc.capget(header, now), "capget")
    _, permitted, _, _, _, _ = struct.unpack("<IIIIII", now.raw[:24])
    mask = permitted & sum(1 << number for number in kept)
    checked(libc.capset(header, struct.pack("<IIIIII", mask, mask, 0, 0, 0, 0)), "capset")
