"""The processes that train one policy together.

    group = started(2, Path("runs/mine/ranks"))     # rank 0 starts the others
    group.tell("step", batches, objective)          # they hear it, and do it with rank 0
    group.close()

Rank 0 is the trainer's own process: it alone collects, asks services, publishes and writes. The
others are `follower.py`, and end when rank 0 ends, whatever ended it. Under torchrun the processes
are there already (`launched`).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, cast

import torch
import torch.distributed as dist

_PATIENCE: Final = timedelta(days=30)
"""A rank waits while rank 0 collects. The end of a process ends the wait, not a deadline."""
_GRACE_S: Final = 30.0
_NOTICED_S: Final = 15.0
"""Time in which the end of another process is an error of what this one does."""
HOST: Final = "127.0.0.1"
END: Final = "end"
"""What the other ranks are told at the end."""


class RankEnded(RuntimeError):
    """A process of the group ended, so that the step cannot be taken."""


@dataclass(kw_only=True)
class Group:
    """This process among the others."""

    rank: int
    size: int
    local_rank: int
    """Number of its GPU, where there are any."""
    processes: Sequence[subprocess.Popen[bytes]] = field(default_factory=tuple)
    """Ranks from 1 on, where this process started them."""
    logs: Path | None = None
    closed: bool = False
    failed: bool = False
    """Whether ranks may have stopped at different places."""
    busy: threading.Lock = field(default_factory=threading.Lock)
    """Held by rank 0 while all ranks do something."""

    def tell(self, what: str, *arguments: object) -> None:
        """Makes the other ranks do something; for rank 0."""
        self.shared((what, arguments))

    def shared(self, value: Any = None) -> Any:
        """What rank 0 gives."""
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def gathered(self, value: Any) -> list[Any]:
        """What each rank gives, on every rank, in their order."""
        found: list[Any] = [None] * self.size
        cast(Any, dist).all_gather_object(found, value)
        return found

    def check(self) -> None:
        """Looks whether a process that rank 0 started has ended.

        Raises:
            RankEnded: one has; the message has the last line of its log.
        """
        for rank, process in enumerate(self.processes, start=1):
            try:
                # Its sockets close a moment before it has ended.
                code = process.wait(timeout=2.0)
            except subprocess.TimeoutExpired:
                continue
            raise RankEnded(f"rank {rank} of {self.size} ended with {code}: {self._said(rank)}")

    def close(self) -> None:
        """Leaves the group, and ends the processes that rank 0 started, whatever they do."""
        # After a failure, or while a step goes on in another thread, nobody listens.
        if self.rank == 0 and not self.failed and self.busy.acquire(blocking=False):
            with suppress(RuntimeError):
                self.tell(END)
            self.busy.release()
        self.end_others()
        with self.busy:
            # Not before: a step that goes on over NCCL does not notice that the others have ended,
            # and `_end_with` must.
            self.closed = True
            dist.destroy_process_group()

    def end_others(self) -> None:
        """Ends the processes that rank 0 started."""
        for process in self.processes:
            cast(Any, process.stdin).close()
            try:
                process.wait(timeout=_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _said(self, rank: int) -> str:
        if self.logs is None:
            return "its output is above"
        path = log_of(self.logs, rank)
        lines = path.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        return f"{lines[-1]} (all of it in {path})"


def log_of(folder: Path, rank: int) -> Path:
    """What a rank says."""
    return folder / f"rank-{rank}.log"


def started(size: int, logs: Path) -> Group:
    """Starts the ranks from 1 on, on this machine."""
    logs.mkdir(parents=True, exist_ok=True)
    store = _store(size)
    processes = [_start(rank, size, store.port, logs) for rank in range(1, size)]
    group = Group(rank=0, size=size, local_rank=0, processes=processes, logs=logs)
    try:
        _wait_for_others(group, store)
    except RankEnded:
        group.end_others()
        raise
    threading.Thread(target=_end_with, args=(group,), daemon=True).start()
    with group.busy:
        _join(group, store)
    return group


def _store(size: int) -> Any:
    """Where ranks find each other, on a free port that only this machine reaches."""
    # The store asks for no key, and would listen on every address by itself.
    listening = socket.create_server((HOST, 0))
    port = listening.getsockname()[1]
    return cast(Any, dist).TCPStore(
        HOST,
        port,
        size,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listening.detach(),
    )


def _wait_for_others(group: Group, store: Any) -> None:
    """Until every rank is about to join.

    Raises:
        RankEnded: one of them has ended.
    """
    names = [_ready(rank) for rank in range(1, group.size)]
    while not store.check(names):
        if any(process.poll() is not None for process in group.processes):
            group.check()
        time.sleep(0.02)


def _ready(rank: int) -> str:
    """The key that a rank sets."""
    return f"ready-{rank}"


def _end_with(group: Group) -> None:
    """Ends this process when another one has ended and this one waits for it all the same.

    Over gloo a lost connection is an error. A rendezvous does not notice it, and NCCL neither.
    """
    while all(process.poll() is None for process in group.processes):
        time.sleep(0.5)
    waits_since = time.monotonic()
    while time.monotonic() - waits_since < _NOTICED_S:
        if group.closed or group.failed:
            return
        if not group.busy.locked():
            waits_since = time.monotonic()
        time.sleep(0.1)
    try:
        group.check()
    except RankEnded as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
    os._exit(1)


def _start(rank: int, size: int, port: int, logs: Path) -> subprocess.Popen[bytes]:
    words = [str(word) for word in (rank, size, port)]
    with log_of(logs, rank).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "preceptor_trainer.learner.follower", *words],
            # Never written to: its end tells the follower that rank 0 has ended.
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def joined(rank: int, size: int, port: int) -> Group:
    """Joins the group of a rank 0 that started this process."""
    group = Group(rank=rank, size=size, local_rank=rank)
    store = cast(Any, dist).TCPStore(HOST, port, size, is_master=False)
    store.set(_ready(rank), "")
    _join(group, store)
    return group


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun started this process, with others beside it."""
    return "TORCHELASTIC_RUN_ID" in environment and int(environment.get("WORLD_SIZE", "1")) > 1


def launched() -> Group:
    """Joins the processes that torchrun started."""
    group = Group(
        rank=int(os.environ["RANK"]),
        size=int(os.environ["WORLD_SIZE"]),
        local_rank=int(os.environ["LOCAL_RANK"]),
    )
    _join(group, None)
    return group


def _join(group: Group, store: Any) -> None:
    has_gpu = torch.cuda.is_available()
    # Ranks that compute on the CPU may be more.
    if has_gpu and group.local_rank < torch.cuda.device_count():
        torch.cuda.set_device(group.local_rank)
    place: dict[str, Any] = {}
    if store is not None:
        place = {"store": store, "rank": group.rank, "world_size": group.size}
    # Objects go over gloo also where tensors do not: it waits as long as it must.
    backend = "cpu:gloo,cuda:nccl" if has_gpu else "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE, **place)
