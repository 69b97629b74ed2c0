"""Claims about the filter of system calls, by walking through it as the kernel does."""

from __future__ import annotations

import struct

import pytest

from preceptor_services.sandbox.inside import seccomp, syscalls

ALLOWED, KILLED, REFUSED, UNKNOWN = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050000 | 38
PID = 4321


def verdict(code: bytes, arch: int, number: int, *arguments: int) -> int:
    """What a filter returns for one call."""
    data = struct.pack("<iIQ6Q", number, arch, 0, *arguments, *[0] * (6 - len(arguments)))
    at, accumulator = 0, 0
    while True:
        operation, yes, no, value = struct.unpack_from("<HBBI", code, 8 * at)
        at += 1
        match operation:
            case 0x20:
                accumulator = struct.unpack_from("<I", data, value)[0]
            case 0x54:
                accumulator &= value
            case 0x05:
                at += value
            case 0x06:
                return value
            case _:
                holds = {
                    0x15: accumulator == value,
                    0x35: accumulator >= value,
                    0x25: accumulator > value,
                }
                at += yes if holds[operation] else no


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request: pytest.FixtureRequest) -> str:
    return request.param


def asked(machine: str, name: str, *arguments: int, **options: bool) -> int:
    settings = {"own_user": False, **options}
    code = seccomp.program(machine, **settings)
    code = code.replace(struct.pack("<I", seccomp.PID_PLACE), struct.pack("<I", PID))
    number = {**syscalls.allowed(machine), **syscalls.checked(machine)}.get(name, -1)
    return verdict(code, seccomp.AUDIT_ARCH[machine], number, *arguments)


def test_every_call_of_the_list_is_allowed_and_every_other_refused(machine: str) -> None:
    code = seccomp.program(machine, own_user=False)
    arch = seccomp.AUDIT_ARCH[machine]
    allowed, checked = syscalls.allowed(machine), syscalls.checked(machine)

    for number in range(1000):
        found = verdict(code, arch, number)
        if number in allowed.values():
            assert found == ALLOWED, number
        elif number not in checked.values():
            assert found == REFUSED, number


def test_calls_of_another_architecture_end_the_process(machine: str) -> None:
    code = seccomp.program(machine, own_user=True)

    assert verdict(code, 0x40000003, 20) == KILLED  # 32-bit x86
    if machine == "x86_64":
        assert verdict(code, seccomp.AUDIT_ARCH[machine], 0x40000000 + 39) == KILLED


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("clone", (0x11,), ALLOWED),
        ("clone", (0x3D0F00,), ALLOWED),  # a thread
        ("clone", (0x10000011,), REFUSED),  # a user namespace
        ("clone3", (), UNKNOWN),
        ("openat2", (), UNKNOWN),
        ("socketpair", (1,), ALLOWED),
        ("socketpair", (2,), REFUSED),
        ("socket", (1,), REFUSED),
        ("prlimit64", (0,), ALLOWED),
        ("prlimit64", (PID,), REFUSED),
        ("prctl", (15,), ALLOWED),
        ("prctl", (4,), REFUSED),
        ("ioctl", (1, 0x5401), ALLOWED),
        ("ioctl", (1, 0x5412), 0x00050000 | 25),  # TIOCSTI
        ("fcntl", (1, 1), ALLOWED),
        ("fcntl", (1, 8), REFUSED),
        ("kill", (1,), ALLOWED),
        ("openat", (0, 0, 0o1000), ALLOWED),
    ],
)
def test_the_arguments_of_some_calls_decide(
    machine: str, name: str, arguments: tuple[int, ...], expected: int
) -> None:
    assert asked(machine, name, *arguments) == expected


def test_without_other_walls_a_program_signals_itself_alone(machine: str) -> None:
    for name, arguments in (("kill", (PID,)), ("kill", (0,)), ("tgkill", (PID, PID))):
        assert asked(machine, name, *arguments, only_signals_itself=True) == ALLOWED
    for name, arguments in (
        ("kill", (1,)),
        ("kill", (2**32 - 1,)),
        ("tgkill", (1, 1)),
        ("tkill", (PID,)),
    ):
        assert asked(machine, name, *arguments, only_signals_itself=True) == REFUSED


def test_without_other_walls_a_file_is_not_emptied_by_opening_it(machine: str) -> None:
    read_only, write_only, empty = 0, 1, 0o1000

    assert asked(machine, "openat", 0, 0, read_only, no_truncate=True) == ALLOWED
    assert asked(machine, "openat", 0, 0, write_only | empty, no_truncate=True) == ALLOWED
    assert asked(machine, "openat", 0, 0, read_only | empty, no_truncate=True) == REFUSED
    assert asked(machine, "truncate", no_truncate=True) == REFUSED


def test_modes_of_files_change_only_where_the_user_owns_nothing_else(machine: str) -> None:
    assert asked(machine, "fchmodat") == REFUSED
    assert asked(machine, "fchmodat", own_user=True) == ALLOWED
