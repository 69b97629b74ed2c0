"""The attempts to leave a sandbox: a program that runs inside, with the standard library only.

    python attempts.py NAME...      the world's addresses as JSON on standard input

Each attempt is a function that returns what it got hold of, or nothing. It runs in a forked child,
and its finding is printed as one line of JSON. What has changed outside is checked there.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import gc
import glob
import json
import mmap
import os
import platform
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

IN_ITS_OWN_KERNEL = (
    "reads_the_boot_log",
    "makes_shared_memory_that_outlives_it",
    "makes_a_message_queue_that_outlives_it",
    "makes_semaphores_that_outlive_it",
    "makes_a_named_message_queue",
    "takes_a_higher_priority",
    "makes_a_user_namespace",
    "makes_a_mount_namespace",
    "makes_namespaces_with_a_new_process",
    "makes_namespaces_by_the_new_call",
    "opens_a_ring_of_calls",
)
"""What crosses nothing where the kernel is the sandbox's own, and ends with it."""
AS_USER_0 = ("becomes_root", "becomes_root_again")
"""Where an ordinary user runs such a kernel, its only user is 0, without any capability."""
W: dict[str, Any] = {}
"""Paths, ports and process ids of the world outside."""
ATTEMPTS: dict[str, tuple[str, Callable[[], Any]]] = {}
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
X86 = platform.machine() == "x86_64"
NEWNS, NEWUSER, NEWPID, NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000


def attempt(wall: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def register(function: Callable[[], Any]) -> Callable[[], Any]:
        ATTEMPTS[function.__name__] = (wall, function)
        return function

    return register


def call(x86: int, arm: int, *arguments: Any) -> int:
    """A system call by its number; an error is an exception."""
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = LIBC.syscall(ctypes.c_long(x86 if X86 else arm), *converted)
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(4096)


def works(x86: int, arm: int, *arguments: Any) -> str:
    return f"the call returned {call(x86, arm, *arguments)}"


# ---------------------------------------------------------------- files


@attempt("files")
def reads_a_file() -> Any:
    return read(W["secret_file"])


@attempt("files")
def reads_through_a_symbolic_link() -> Any:
    os.symlink(W["secret_file"], "link")
    return read("link")


@attempt("files")
def reads_through_a_hard_link() -> Any:
    os.link(W["secret_file"], "hard")
    return read("hard")


@attempt("files")
def reads_through_the_root_of_its_own_process() -> Any:
    return read("/proc/self/root" + W["secret_file"])


@attempt("files")
def reads_through_the_root_of_the_first_process() -> Any:
    return read("/proc/1/root" + W["secret_file"])


@attempt("files")
def reads_through_the_root_of_the_service() -> Any:
    return read(f"/proc/{W['service_pid']}/root" + W["secret_file"])


@attempt("files")
def reads_through_the_folder_of_its_parent() -> Any:
    return read(f"/proc/{os.getppid()}/cwd" + W["secret_file"])


@attempt("files")
def reads_above_its_root() -> Any:
    return read("../" * 40 + W["secret_file"].lstrip("/"))


@attempt("files")
def reads_the_shadow_file() -> Any:
    return read("/etc/shadow")


@attempt("files")
def reads_the_list_of_users() -> Any:
    return read("/etc/passwd")


@attempt("files")
def lists_homes() -> Any:
    return os.listdir("/home") + os.listdir("/var/log")


@attempt("files")
def reads_the_boot_log() -> Any:
    buffer = ctypes.create_string_buffer(4096)
    return works(103, 116, 3, buffer, 4096)


@attempt("files")
def writes_a_file() -> Any:
    with open(W["target_file"], "w") as file:
        file.write("x")
    return "written"


@attempt("files")
def appends_to_a_file() -> Any:
    fd = os.open(W["target_file"], os.O_WRONLY | os.O_APPEND)
    return os.write(fd, b"x")


@attempt("files")
def truncates_a_file() -> Any:
    os.truncate(W["target_file"], 0)
    return "truncated"


@attempt("files")
def empties_a_file_by_opening_it() -> Any:
    os.open(W["target_file"], os.O_RDONLY | os.O_TRUNC)
    return "emptied"


@attempt("files")
def changes_the_mode_of_a_file() -> Any:
    os.chmod(W["target_file"], 0o600)
    return "changed"


@attempt("files")
def changes_the_times_of_a_file() -> Any:
    os.utime(W["target_file"], (0, 0))
    return "changed"


@attempt("files")
def changes_the_owner_of_a_file() -> Any:
    os.chown(W["target_file"], os.getuid(), os.getgid())
    return "changed"


@attempt("files")
def sets_an_attribute_of_a_file() -> Any:
    os.setxattr(W["target_file"], "user.mark", b"x")
    return "set"


@attempt("files")
def renames_over_a_file() -> Any:
    with open("new", "w") as file:
        file.write("x")
    os.rename("new", W["target_file"])
    return "renamed"


@attempt("files")
def removes_a_file() -> Any:
    os.unlink(W["target_file"])
    return "removed"


@attempt("files")
def makes_a_file_outside() -> Any:
    os.close(os.open(W["open_folder"] + "/made", os.O_CREAT | os.O_WRONLY))
    return "made"


@attempt("files")
def makes_a_folder_outside() -> Any:
    os.mkdir(W["open_folder"] + "/made-folder")
    return "made"


@attempt("files")
def makes_a_link_outside() -> Any:
    os.symlink("/etc", W["open_folder"] + "/made-link")
    return "made"


@attempt("files")
def opens_by_a_handle() -> Any:
    handle = ctypes.create_string_buffer(struct.pack("<Ii", 128, 0) + bytes(128))
    mount_id = ctypes.c_int()
    call(303, 264, -100, W["secret_file"].encode(), handle, ctypes.byref(mount_id), 0)
    return os.read(call(304, 265, os.open("/", os.O_RDONLY), handle, os.O_RDONLY), 4096)


@attempt("files")
def makes_the_memory_device() -> Any:
    os.mknod("mem", 0o20600, os.makedev(1, 1))
    return read("mem")


@attempt("files")
def makes_a_disk_device() -> Any:
    os.mknod("disk", 0o60600, os.makedev(254, 0))
    return read("disk")


@attempt("files")
def reads_a_disk_device() -> Any:
    return [read(path) for path in glob.glob("/dev/[svn][dvm]*")]


@attempt("files")
def changes_its_root() -> Any:
    os.mkdir("inner")
    here = os.open(".", os.O_RDONLY)
    os.chroot("inner")
    os.fchdir(here)
    for _ in range(40):
        os.chdir("..")
    os.chroot(".")
    return read(W["secret_file"])


@attempt("files")
def mounts_a_file_system() -> Any:
    os.mkdir("mounted")
    return works(165, 40, b"none", b"mounted", b"tmpfs", 0, None)


@attempt("files")
def mounts_the_process_list() -> Any:
    os.mkdir("processes")
    return works(165, 40, b"proc", b"processes", b"proc", 0, None)


@attempt("files")
def copies_a_mount_by_the_new_calls() -> Any:
    return works(428, 428, -100, b"/", 1)


@attempt("files")
def opens_a_file_system_by_the_new_calls() -> Any:
    return works(430, 430, b"tmpfs", 0)


@attempt("files")
def unmounts_its_root() -> Any:
    return works(166, 39, b"/", 2)


@attempt("files")
def runs_a_program_from_memory_that_reads() -> Any:
    fd = call(319, 279, b"program", 0)
    os.write(fd, b"#!/bin/sh\ncat " + W["secret_file"].encode())
    done = subprocess.run(["/bin/sh", f"/dev/fd/{fd}"], pass_fds=(fd,), capture_output=True)
    return done.stdout


@attempt("files")
def lets_a_shell_read() -> Any:
    return subprocess.run(["cat", W["secret_file"]], capture_output=True).stdout


@attempt("files")
def watches_files_of_others() -> Any:
    return works(300, 262, 0, os.O_RDONLY)


@attempt("files")
def reads_what_an_earlier_run_left() -> Any:
    places = ("/tmp", "/dev/shm", "/var/tmp", "/run", os.getcwd(), os.path.dirname(os.getcwd()))
    found: list[bytes] = []
    for place in places:
        for path in (*glob.glob(f"{place}/left-behind*"), *glob.glob(f"{place}/*/left-behind*")):
            found.append(read(path))
    return found


# ---------------------------------------------------------------- environment


@attempt("environment")
def reads_its_own_environment() -> Any:
    return [value for value in os.environ.values() if value == W["secret"][::-1]]


@attempt("environment")
def reads_the_environment_of_the_first_process() -> Any:
    return holds_the_secret(read("/proc/1/environ"))


@attempt("environment")
def reads_the_environment_of_the_service() -> Any:
    return holds_the_secret(read(f"/proc/{W['service_pid']}/environ"))


@attempt("environment")
def reads_every_environment() -> Any:
    found: list[Any] = []
    for path in glob.glob("/proc/[0-9]*/environ"):
        try:
            found.append(holds_the_secret(read(path)))
        except OSError:
            continue
    return [one for one in found if one]


@attempt("environment")
def reads_inherited_descriptors() -> Any:
    found: list[bytes] = []
    for fd in (*range(4, 300), *range(1000, 1100)):
        try:
            found.append(os.pread(fd, 4096, 0))
        except OSError as error:
            if error.errno != errno.EBADF:
                found.append(str(error).encode())
    # The program has opened nothing but the pipe of its own finding.
    return [text for text in found if text and b"seek" not in text]


@attempt("environment")
def finds_an_earlier_run_in_memory() -> Any:
    secret = W["secret"][::-1]
    gc.unfreeze()
    objects = [o for o in gc.get_objects() if isinstance(o, dict | list)]
    found = [f"an object: {repr(o)[:80]}" for o in objects if has(o, secret)]
    frame: Any = sys._getframe().f_back
    while frame is not None:
        found += [f"a frame: {n}" for n, v in frame.f_locals.items() if has(v, secret)]
        frame = frame.f_back
    return found


@attempt("environment")
def finds_an_earlier_run_in_its_heap() -> Any:
    wanted = b"left-" + b"behind-in-memory-" + W["secret"].encode()
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps.read().splitlines():
            start, end = (int(number, 16) for number in line.split()[0].split("-"))
            if "rw" in line and end - start < 1 << 26:
                memory.seek(start)
                if memory.read(end - start).count(wanted) > 4:
                    return line
    return None


def has(value: Any, secret: str) -> bool:
    try:
        return 0 < len(value) < 40 and secret in repr(value)
    except BaseException:
        return False


def holds_the_secret(text: bytes) -> bytes | None:
    return text if W["secret"][::-1].encode() in text else None


# ---------------------------------------------------------------- network


@attempt("network")
def connects_to_a_local_port() -> Any:
    return socket.create_connection(("127.0.0.1", W["port"]), 0.3).send(b"x")


@attempt("network")
def connects_to_the_machines_address() -> Any:
    return socket.create_connection((W["address"], W["port"]), 0.3).send(b"x")


@attempt("network")
def connects_by_the_newer_protocol() -> Any:
    with socket.socket(socket.AF_INET6) as found:
        found.settimeout(0.3)
        found.connect(("::ffff:127.0.0.1", W["port"]))
        return found.send(b"x")


@attempt("network")
def sends_a_datagram() -> Any:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        # In a network of its own, it can be sent, and arrives nowhere: the world says.
        found.sendto(b"x", ("127.0.0.1", W["datagram_port"]))
    return None


@attempt("network")
def connects_to_a_socket_file() -> Any:
    with socket.socket(socket.AF_UNIX) as found:
        found.connect(W["socket_file"])
        return found.send(b"x")


@attempt("network")
def connects_to_an_abstract_socket() -> Any:
    with socket.socket(socket.AF_UNIX) as found:
        found.connect("\0" + W["abstract"])
        return found.send(b"x")


@attempt("network")
def sends_from_a_pair_to_an_abstract_socket() -> Any:
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return one.sendto(b"x", "\0" + W["abstract_datagram"])


@attempt("network")
def opens_a_socket_to_the_hypervisor() -> Any:
    with socket.socket(40, socket.SOCK_STREAM) as found:
        return f"descriptor {found.fileno()}"


@attempt("network")
def opens_a_raw_socket() -> Any:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, 1) as found:
        return f"descriptor {found.fileno()}"


@attempt("network")
def opens_a_packet_socket() -> Any:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as found:
        return f"descriptor {found.fileno()}"


@attempt("network")
def asks_the_kernel_for_its_interfaces() -> Any:
    return [name for _, name in socket.if_nameindex() if name != "lo"]


@attempt("network")
def uses_the_kernels_cryptography() -> Any:
    with socket.socket(38, socket.SOCK_SEQPACKET) as found:
        return f"descriptor {found.fileno()}"


@attempt("network")
def asks_for_a_name() -> Any:
    found = socket.getaddrinfo("localhost.localdomain", W["port"])
    return socket.create_connection(found[0][4][:2], 0.3).send(b"x")


# ---------------------------------------------------------------- processes


@attempt("processes")
def sees_a_foreign_process() -> Any:
    os.kill(W["victim_pid"], 0)
    return "seen"


@attempt("processes")
def stops_a_foreign_process() -> Any:
    os.kill(W["victim_pid"], signal.SIGSTOP)
    return "stopped"


@attempt("processes")
def signals_a_foreign_thread() -> Any:
    return works(234, 131, W["victim_pid"], W["victim_pid"], 0) + " (tgkill)"


@attempt("processes")
def signals_a_foreign_thread_by_the_old_call() -> Any:
    return works(200, 130, W["victim_pid"], 0)


@attempt("processes")
def queues_a_signal() -> Any:
    information = ctypes.create_string_buffer(struct.pack("<iii", 10, 0, -1) + bytes(116))
    return works(129, 138, W["victim_pid"], 10, information)


@attempt("processes")
def signals_by_a_descriptor() -> Any:
    fd = os.pidfd_open(W["victim_pid"])
    signal.pidfd_send_signal(fd, signal.SIGSTOP)
    return "signalled"


@attempt("processes")
def signals_the_service() -> Any:
    os.kill(W["service_pid"], 0)
    return "seen"


@attempt("processes")
def lets_a_file_signal_another_process() -> Any:
    one, two = socket.socketpair()
    fcntl.fcntl(one, fcntl.F_SETOWN, W["victim_pid"])
    fcntl.fcntl(one, 10, signal.SIGSTOP)
    fcntl.fcntl(one, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    two.send(b"x")
    time.sleep(0.05)
    return "sent" if fcntl.fcntl(one, fcntl.F_GETOWN) == W["victim_pid"] else None


@attempt("processes")
def traces_a_foreign_process() -> Any:
    return works(101, 117, 16, W["victim_pid"], 0, 0)


@attempt("processes")
def traces_its_parent() -> Any:
    return works(101, 117, 0x4206, W["first_parent"], 0, 0)


@attempt("processes")
def reads_foreign_memory() -> Any:
    return move_memory(310, 270)


@attempt("processes")
def writes_foreign_memory() -> Any:
    return move_memory(311, 271)


def move_memory(x86: int, arm: int) -> Any:
    buffer = ctypes.create_string_buffer(16)
    local = struct.pack("<QQ", ctypes.addressof(buffer), 16)
    for pid in (W["victim_pid"], W["first_parent"], W["service_pid"]):
        remote = struct.pack("<QQ", W["victim_address"], 16)
        try:
            return works(x86, arm, pid, local, 1, remote, 1, 0)
        except OSError as error:
            if error.errno == errno.EFAULT:
                return "the memory can be reached"
    return None


@attempt("processes")
def reads_foreign_memory_as_a_file() -> Any:
    for pid in (W["victim_pid"], W["service_pid"], W["first_parent"]):
        try:
            with open(f"/proc/{pid}/mem", "rb"):
                return f"opened that of {pid}"
        except OSError:
            continue
    return None


@attempt("processes")
def reads_foreign_descriptors() -> Any:
    for pid in (W["victim_pid"], W["service_pid"], W["first_parent"]):
        for fd in range(3, 20):
            try:
                os.close(os.open(f"/proc/{pid}/fd/{fd}", os.O_RDONLY))
            except OSError:
                continue
            return f"opened descriptor {fd} of {pid}"
    return None


@attempt("processes")
def takes_a_foreign_descriptor() -> Any:
    return works(438, 438, os.pidfd_open(W["victim_pid"]), 0, 0)


@attempt("processes")
def compares_itself_with_a_foreign_process() -> Any:
    return works(312, 272, os.getpid(), W["victim_pid"], 1, 0, 0)


@attempt("processes")
def limits_a_foreign_process() -> Any:
    return works(302, 261, W["victim_pid"], 7, struct.pack("<QQ", 3, 3), None)


@attempt("processes")
def binds_a_foreign_process_to_a_processor() -> Any:
    os.sched_setaffinity(W["victim_pid"], {0})
    return "bound"


@attempt("processes")
def changes_a_foreign_priority() -> Any:
    os.setpriority(os.PRIO_PROCESS, W["victim_pid"], 19)
    return "changed"


@attempt("processes")
def enters_foreign_namespaces() -> Any:
    return works(308, 268, os.pidfd_open(W["victim_pid"]), NEWNET)


@attempt("processes")
def reads_shared_memory_of_the_machine() -> Any:
    address = call(30, 196, call(29, 194, W["ipc_key"], 4096, 0), 0, 0)
    return ctypes.string_at(address, 16)


@attempt("processes")
def makes_shared_memory_that_outlives_it() -> Any:
    return works(29, 194, 0x5EED, 4096, 0o1666)


@attempt("processes")
def makes_a_message_queue_that_outlives_it() -> Any:
    return works(68, 186, 0x5EED, 0o1666)


@attempt("processes")
def makes_semaphores_that_outlive_it() -> Any:
    return works(64, 190, 0x5EED, 1, 0o1666)


@attempt("processes")
def makes_a_named_message_queue() -> Any:
    return works(240, 180, b"left-behind", os.O_CREAT | os.O_RDWR, 0o666, None)


@attempt("processes")
def writes_to_the_users_keyring() -> Any:
    return works(248, 217, b"user", b"left-behind", b"x", 1, -4)


@attempt("processes")
def reads_the_users_keyring() -> Any:
    return works(250, 219, 0, -4, 1)


# ---------------------------------------------------------------- privilege


@attempt("privilege")
def becomes_root() -> Any:
    os.setuid(0)
    return f"user {os.getuid()}"


@attempt("privilege")
def becomes_root_again() -> Any:
    os.setresuid(0, 0, 0)
    return f"user {os.getuid()}"


@attempt("privilege")
def joins_the_group_of_root() -> Any:
    os.setgroups([0])
    return "joined"


@attempt("privilege")
def has_a_capability() -> Any:
    sets = ctypes.create_string_buffer(24)
    call(125, 90, struct.pack("<II", 0x20080522, 0), sets)
    effective, permitted = struct.unpack("<II", sets.raw[:8])
    return f"{effective:x} {permitted:x}" if effective or permitted else None


@attempt("privilege")
def takes_a_capability() -> Any:
    return works(126, 91, struct.pack("<II", 0x20080522, 0), struct.pack("<6I", 1, 1, 0, 0, 0, 0))


@attempt("privilege")
def may_gain_privileges_by_a_program() -> Any:
    return None if LIBC.prctl(39, 0, 0, 0, 0) == 1 else "no_new_privs is not set"


@attempt("privilege")
def runs_a_program_of_root() -> Any:
    for path in glob.glob("/usr/bin/*"):
        if os.stat(path).st_mode & 0o4000 and path.endswith("/su"):
            done = subprocess.run(
                [path, "-c", f"cat {W['secret_file']}"], capture_output=True, stdin=-3
            )
            return done.stdout
    return None


@attempt("privilege")
def makes_a_user_namespace() -> Any:
    return works(272, 97, NEWUSER)


@attempt("privilege")
def makes_a_mount_namespace() -> Any:
    return works(272, 97, NEWNS)


@attempt("privilege")
def makes_namespaces_with_a_new_process() -> Any:
    pid = call(56, 220, NEWUSER | NEWPID | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return f"process {pid}"


@attempt("privilege")
def makes_namespaces_by_the_new_call() -> Any:
    arguments = struct.pack("<11Q", NEWUSER, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0)
    pid = call(435, 435, arguments, len(arguments))
    if pid == 0:
        os._exit(0)
    return f"process {pid}"


@attempt("privilege")
def loads_a_program_into_the_kernel() -> Any:
    return works(321, 280, 0, struct.pack("<4I", 2, 4, 8, 4) + bytes(100), 116)


@attempt("privilege")
def opens_a_ring_of_calls() -> Any:
    return works(425, 425, 4, ctypes.create_string_buffer(120))


@attempt("privilege")
def handles_page_faults_itself() -> Any:
    return works(323, 282, 1)


@attempt("privilege")
def counts_events_of_the_kernel() -> Any:
    return works(298, 241, struct.pack("<IIQ", 1, 112, 0) + bytes(96), 0, -1, -1, 0)


@attempt("privilege")
def hides_memory_from_the_kernel() -> Any:
    return works(447, 447, 0)


@attempt("privilege")
def changes_its_segment_table() -> Any:
    entry = struct.pack("<IIII", 0, 0, 0xFFFFF, 0x51)
    return works(154, 10_000, 0x11, entry, 16)


@attempt("privilege")
def makes_calls_of_another_architecture() -> Any:
    if not X86:
        return None
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, getpid; int 0x80; ret
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    found = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
    return f"the call returned {found}" if found > 0 else None


@attempt("privilege")
def makes_calls_with_short_pointers() -> Any:
    return works(0x40000000 + 39, 10_000) if X86 else None


@attempt("privilege")
def types_into_a_terminal() -> Any:
    for fd in (0, 1, 2):
        try:
            fcntl.ioctl(fd, 0x5412, b"x")
        except OSError:
            continue
        return "typed"
    fcntl.ioctl(os.open("/dev/tty", os.O_RDWR), 0x5412, b"x")
    return "typed"


@attempt("privilege")
def opens_a_new_terminal() -> Any:
    fd = os.open("/dev/ptmx", os.O_RDWR)
    fcntl.ioctl(fd, 0x5412, b"x")
    return "typed"


@attempt("privilege")
def renames_the_machine() -> Any:
    socket.sethostname("other")
    return "renamed"


@attempt("privilege")
def sets_the_clock() -> Any:
    time.clock_settime(time.CLOCK_REALTIME, time.time())
    return "set"


@attempt("privilege")
def loads_a_module() -> Any:
    return works(175, 105, b"", 0, b"")


@attempt("privilege")
def writes_a_setting_of_the_kernel() -> Any:
    with open("/proc/sys/kernel/core_pattern", "r+") as file:
        file.write(file.read())
    return "written"


# ---------------------------------------------------------------- limits


@attempt("limits")
def raises_its_limits() -> Any:
    raised: list[int] = []
    for what in (resource.RLIMIT_NPROC, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):
        _, most = resource.getrlimit(what)
        try:
            resource.setrlimit(what, (most + 1, most + 1))
            raised.append(what)
        except (OSError, ValueError):
            continue
    return raised


@attempt("limits")
def starts_too_many_processes() -> Any:
    started: list[int] = []
    try:
        for _ in range(300):
            pid = os.fork()
            if pid == 0:
                time.sleep(30)
                os._exit(0)
            started.append(pid)
    except OSError:
        pass
    finally:
        for pid in started:
            os.kill(pid, signal.SIGKILL)
    return f"{len(started)} processes" if len(started) > W["processes"] else None


@attempt("limits")
def starts_too_many_threads() -> Any:
    threading.stack_size(65_536)
    done = threading.Event()
    started = 0
    try:
        for started in range(300):  # noqa: B007 (its last value is what counts)
            threading.Thread(target=done.wait, daemon=True).start()
    except RuntimeError:
        pass
    done.set()
    return f"{started} threads" if started > W["processes"] else None


@attempt("limits")
def takes_too_much_memory() -> Any:
    size = (W["memory_mb"] + 88) << 20
    taken = mmap.mmap(-1, size)
    for at in range(0, size, 4096):
        taken[at] = 1
    return f"{size} bytes"


@attempt("limits")
def locks_memory() -> Any:
    taken = mmap.mmap(-1, 1 << 22)
    address = ctypes.addressof(ctypes.c_char.from_buffer(taken))
    return works(149, 228, address, 1 << 22)


@attempt("limits")
def takes_a_higher_priority() -> Any:
    os.setpriority(os.PRIO_PROCESS, 0, -5)
    return "taken"


@attempt("limits")
def takes_a_real_time_priority() -> Any:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return "taken"


@attempt("limits")
def writes_a_file_above_its_limit() -> Any:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    fd = os.open("large", os.O_CREAT | os.O_WRONLY)
    return os.pwrite(fd, b"x", (W["files_mb"] << 20) + 1)


def main() -> None:
    W.update(json.loads(sys.stdin.read()))
    W["first_parent"] = os.getppid()
    for name in sys.argv[1:] or ATTEMPTS:
        sys.stdout.write(json.dumps([name, run_in_a_child(ATTEMPTS[name][1])]) + "\n")
        sys.stdout.flush()


def run_in_a_child(function: Callable[[], Any]) -> str | None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(5)
        try:
            found = function()
            if found:
                os.write(writing, repr(found).encode("utf-8", "replace")[:2000])
        except BaseException:
            pass
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        text = file.read()
    os.waitpid(pid, 0)
    return text.decode("utf-8", "replace") or None


if __name__ == "__main__":
    main()
