"""Weights from a trainer to all of vLLM's workers over gloo, without files.

Trainer and workers are a group of their own, beside those that each may have: the trainer is rank
0, and a store on its machine has them meet. torch is imported where a group is made, because the
light SDK does without it, and both sides have it.

Left out: NCCL. It cannot be tried without two GPUs, and by its source its watchdog ends a process
whose transfer fails.
"""

from __future__ import annotations

import importlib
import socket
from collections.abc import Generator, Sequence
from datetime import timedelta
from typing import Any, Final, TypeAlias

Outline: TypeAlias = Sequence[tuple[str, str, Sequence[int]]]
"""Name, data type as torch names it, and shape of each tensor, in the order that they are sent."""

TIMEOUT: Final = timedelta(seconds=60)
"""Longest wait for the other side's part of one tensor, or to meet it."""
_JOINED: Final = "joined"


def num_joined(store: Any) -> int:
    """How many workers have come to the store."""
    return int(store.add(_JOINED, 0))


def joined(host: str, port: int, size: int) -> Any:
    """A worker's end of the group.

    Args:
        host: The trainer's address.
        port: Of its store.
        size: Processes of the group, the trainer among them.

    Raises:
        RuntimeError: the store or another process cannot be reached, or more workers came than the
            trainer knows of.
    """
    distributed: Any = importlib.import_module("torch.distributed")
    store = distributed.TCPStore(host, port, is_master=False, timeout=TIMEOUT)
    with socket.create_connection((host, port), TIMEOUT.total_seconds()) as probe:
        own: str = probe.getsockname()[0]
    # Whoever comes first is 1: no rank of vLLM's is one of all its workers.
    rank = int(store.add(_JOINED, 1))
    if rank >= size:
        raise RuntimeError(f"the trainer expects {size - 1} workers, and more have come")
    return group_of(store, rank, size, own)


def group_of(store: Any, rank: int, size: int, host: str) -> Any:
    """One end of a group, once all are there.

    Args:
        store: Where they meet.
        rank: 0 for the trainer.
        size: Processes of the group.
        host: This process's address for the others.
    """
    distributed: Any = importlib.import_module("torch.distributed")
    gloo = distributed.ProcessGroupGloo
    options = gloo._Options()
    options._timeout = TIMEOUT
    # Without it gloo takes what the machine's name resolves to, often the loopback.
    options._devices = [gloo.create_device(hostname=host)]
    return gloo(store, rank, size, options)


def broadcast(group: Any, tensor: Any) -> None:
    """Sends a tensor where this end is the trainer's, and fills it elsewhere."""
    distributed: Any = importlib.import_module("torch.distributed")
    options = distributed.BroadcastOptions()
    options.rootRank = options.rootTensor = 0
    group.broadcast([tensor], options).wait(TIMEOUT)


def received(group: Any, outline: Outline) -> Generator[tuple[str, Any]]:
    """The tensors of a version, one at a time, in main memory."""
    torch: Any = importlib.import_module("torch")
    for name, dtype, shape in outline:
        # On a CPU, whatever device vLLM has as the default while it loads.
        tensor = torch.empty(list(shape), dtype=getattr(torch, dtype), device="cpu")
        broadcast(group, tensor)
        yield name, tensor
