"""Runs expressions as `root` or as an ordinary user, with or without namespaces; prints JSON.

    python run_restricted.py user|same allow|deny|deny-all RUNG PROGRAM...

An ordinary user keeps the right to read files, because the interpreter may lie in a private home.
`deny` filters `unshare` and `mount` away, as container runtimes do; `deny-all` also Landlock.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import platform
import struct
import sys

from preceptor_services.sandbox.isolation import IsolationFailed, Limits, ProgramRun
from preceptor_services.sandbox.ladder import open_sandbox
from preceptor_services.sandbox.rungs.rung import RungOptions

LIBC = ctypes.CDLL(None, use_errno=True)
LANDLOCK = 444
UNSHARE, MOUNT = {"x86_64": (272, 165), "aarch64": (97, 40)}[platform.machine()]
CAP_DAC_READ_SEARCH = 2
SYSTEMS = "/usr/bin/python3"


def checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "a system call of the test")


def become_user(uid: int) -> None:
    checked(LIBC.prctl(8, 1, 0, 0, 0))  # PR_SET_KEEPCAPS
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    bit = 1 << CAP_DAC_READ_SEARCH
    header = struct.pack("<II", 0x20080522, 0)
    checked(LIBC.capset(header, struct.pack("<IIIIII", bit, bit, bit, 0, 0, 0)))
    checked(LIBC.prctl(47, 2, CAP_DAC_READ_SEARCH, 0, 0))  # PR_CAP_AMBIENT_RAISE


def deny(*calls: int) -> None:
    load_number, is_equal, give_back = 0x20, 0x15, 0x06
    instructions = [(load_number, 0, 0, 0)]
    for call in calls:
        instructions += [(is_equal, 0, 1, call), (give_back, 0, 0, 0x00050001)]  # EPERM
    instructions.append((give_back, 0, 0, 0x7FFF0000))  # allowed
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *i) for i in instructions))
    program = struct.pack("<HxxxxxxQ", len(instructions), ctypes.addressof(code))
    checked(LIBC.prctl(38, 1, 0, 0, 0))  # PR_SET_NO_NEW_PRIVS
    checked(LIBC.prctl(22, 2, program, 0, 0))  # PR_SET_SECCOMP


def main() -> None:
    user, namespaces, rung, *programs = sys.argv[1:]
    if user == "user" and os.geteuid() == 0:
        become_user(65_534)
    if namespaces != "allow":
        deny(UNSHARE, MOUNT, *([LANDLOCK] if namespaces == "deny-all" else []))
    try:
        # gVisor's own processes have no right to read a private home.
        box = open_sandbox(rung, options=RungOptions(python=SYSTEMS if rung == "gvisor" else ""))
    except IsolationFailed as error:
        sys.stdout.write(json.dumps({"refused": str(error)}))
        return
    outcomes = [
        dataclasses.asdict(
            box.run(ProgramRun(program=p, entry="x", inputs=([3, 1],)), Limits(cpu_seconds=0.3))
        )
        for p in programs
    ]
    described = box.describe()
    box.stop()
    sys.stdout.write(json.dumps({"isolation": described, "outcomes": outcomes}))


if __name__ == "__main__":
    main()
