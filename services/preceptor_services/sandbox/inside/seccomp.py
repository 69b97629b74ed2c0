"""The filter of system calls: a list of what is allowed, with rules for some arguments.

Refused calls fail with EPERM, newer ones with ENOSYS, so that libraries take their older way. Calls
of another architecture (32-bit calls, x32) end the process.
"""

from __future__ import annotations

import ctypes
import struct

from preceptor_services.sandbox.inside import syscalls
from preceptor_services.sandbox.inside.linux import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    PR_SET_SECCOMP,
    checked,
    libc,
)

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT = 0x40000000
_LOAD, _AND, _EQUAL, _AT_LEAST, _ABOVE, _JUMP, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x25, 0x05, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
EPERM, ENOSYS, ENOTTY = 1, 38, 25
_NR, _ARCH, _ARGUMENTS = 0, 4, 16
_NEW_NAMESPACES = (
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID
    | CLONE_NEWNET | CLONE_NEWTIME
)  # fmt: skip
_TERMINAL_QUESTIONS = (0x5401, 0x540F, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""ioctl: TCGETS, TIOCGPGRP, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX; no TIOCSTI."""
_OWN_SIGNALS = (8, 10, 15, 1024, 1026)
"""fcntl: F_SETOWN, F_SETSIG, F_SETOWN_EX signal others; F_SETLEASE, F_NOTIFY watch their files."""
_PRCTL = (3, 15, 16, 23, 39, 0x53564D41)
"""PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_CAPBSET_READ, PR_GET_NO_NEW_PRIVS, PR_SET_VMA."""
_AF_UNIX, _O_TRUNC, _O_TRUNC_OR_WRITE = 1, 0o1000, 0o1003
_CHANGE_OF_ATTRIBUTES = (
    "chmod",
    "fchmodat",
    "fchmodat2",
    "utime",
    "utimes",
    "futimesat",
    "utimensat",
)

Instruction = tuple[int, int, int, int]
Rule = tuple[int, int, list[Instruction]]
"""First and last number of calls, and what decides on them; it always returns."""


def program(
    machine: str, *, own_user: bool, only_signals_itself: bool = False, no_truncate: bool = False
) -> bytes:
    """The filter for a machine (`platform.machine()`).

    Args:
        machine: Architecture whose calls are allowed.
        own_user: The program's user owns nothing else, so it may change modes and times of files.
        only_signals_itself: Where no other wall keeps signals from foreign processes; `restrict`
            then puts the process id in.
        no_truncate: Where no other wall keeps a file that can be read from being emptied.
    """
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NR),
    ]
    if machine == "x86_64":
        code += [(_AT_LEAST, 0, 1, X32_BIT), (_RETURN, 0, 0, _KILL)]
    rules = [(number, number, _allow()) for number in syscalls.allowed(machine).values()]
    for name, number in syscalls.checked(machine).items():
        rule = _rule(name, own_user, only_signals_itself, no_truncate)
        rules.append((number, number, rule))
    code += _decide(_merge(sorted(rules)))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def _merge(rules: list[Rule]) -> list[Rule]:
    """Neighbours with the same rule become one range."""
    merged: list[Rule] = []
    for first, last, rule in rules:
        if merged and merged[-1][2] == rule and merged[-1][1] + 1 == first:
            first = merged.pop()[0]
        merged.append((first, last, rule))
    return merged


def _decide(rules: list[Rule]) -> list[Instruction]:
    """A tree of comparisons: the kernel walks through it for every call when a filter begins."""
    if len(rules) > 3:
        middle = len(rules) // 2
        left, right = _decide(rules[:middle]), _decide(rules[middle:])
        jump = (_JUMP, 0, 0, len(left))
        return [(_AT_LEAST, 0, 1, rules[middle][0]), jump, *left, *right]
    code: list[Instruction] = []
    for first, last, rule in rules:
        assert len(rule) < 255
        if first == last:
            code += [(_EQUAL, 0, len(rule), first), *rule]
        else:
            code += [(_AT_LEAST, 0, len(rule) + 1, first), (_ABOVE, len(rule), 0, last), *rule]
    return [*code, *_deny(EPERM)]


PID_PLACE = 0x7EADBEE5
"""Stands for the process id in a filter that is built before the process exists."""


class Filter:
    """A filter in memory. Made once, so that a child does little more than a system call."""

    def __init__(self, code: bytes) -> None:
        self._code = ctypes.create_string_buffer(code, len(code))
        self._places = [at for at in range(4, len(code), 8) if code[at : at + 4] == _PID_BYTES]
        begin = ctypes.addressof(self._code)
        header = struct.pack("<HxxxxxxQ", len(code) // 8, begin)
        self._header = ctypes.create_string_buffer(header, len(header))
        self._address = ctypes.c_void_p(ctypes.addressof(self._header))

    def restrict(self, pid: int) -> None:
        """Puts this process and its children under the filter, for ever."""
        for at in self._places:
            struct.pack_into("<I", self._code, at, pid)
        checked(libc.prctl(PR_SET_SECCOMP, 2, self._address, 0, 0), "prctl PR_SET_SECCOMP")


_PID_BYTES = struct.pack("<I", PID_PLACE)


def _rule(
    name: str, own_user: bool, only_signals_itself: bool, no_truncate: bool
) -> list[Instruction]:
    match name:
        case "clone":
            return _deny_if_any(0, _NEW_NAMESPACES)
        case "open" | "openat":
            return _unless_truncating(1 if name == "open" else 2) if no_truncate else _allow()
        case "creat":
            return _deny(EPERM) if no_truncate else _allow()
        case "clone3" | "openat2" | "fchmodat2":
            # Their arguments are in memory, where a filter cannot look.
            return _deny(ENOSYS)
        case "socketpair":
            return _one_of(0, (_AF_UNIX,), EPERM)
        case "prlimit64":
            return _one_of(0, (0,), EPERM)
        case "prctl":
            return _one_of(0, _PRCTL, EPERM)
        case "ioctl":
            return _one_of(1, _TERMINAL_QUESTIONS, ENOTTY)
        case "fcntl":
            return _none_of(1, _OWN_SIGNALS)
        case "kill" | "tgkill" if only_signals_itself:
            return _one_of(0, (PID_PLACE, 0) if name == "kill" else (PID_PLACE,), EPERM)
        case "tkill" if only_signals_itself:
            return _deny(EPERM)
        case "kill" | "tgkill" | "tkill":
            return _allow()
        case "truncate" if not no_truncate:
            return _allow()
        case _ if name in _CHANGE_OF_ATTRIBUTES and own_user:
            return _allow()
        case _:
            return _deny(EPERM)


def _allow() -> list[Instruction]:
    return [(_RETURN, 0, 0, _ALLOW)]


def _deny(errno: int) -> list[Instruction]:
    return [(_RETURN, 0, 0, _ERRNO | errno)]


def _argument(index: int) -> Instruction:
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * index)


def _one_of(index: int, values: tuple[int, ...], errno: int) -> list[Instruction]:
    rule = [_argument(index)]
    for value in values:
        rule += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
    return [*rule, *_deny(errno)]


def _none_of(index: int, values: tuple[int, ...]) -> list[Instruction]:
    rule = [_argument(index)]
    for value in values:
        rule += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ERRNO | EPERM)]
    return [*rule, *_allow()]


def _deny_if_any(index: int, mask: int) -> list[Instruction]:
    return [_argument(index), (_AND, 0, 0, mask), (_EQUAL, 0, 1, 0), *_allow(), *_deny(EPERM)]


def _unless_truncating(index: int) -> list[Instruction]:
    masked = (_AND, 0, 0, _O_TRUNC_OR_WRITE)
    return [_argument(index), masked, (_EQUAL, 0, 1, _O_TRUNC), *_deny(EPERM), *_allow()]
