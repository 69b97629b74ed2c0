"""The trainer's end of a group that it broadcasts versions in, to a server's workers.

    group = WeightGroup(host, size=3)
    await group.together(telling, group.meet)  # each worker is told `host` and `group.port`
    await group.together(telling, partial(group.send, tensors))

`telling` is the call to the server that has its workers join, or receive.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from torch import Tensor
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from preceptor_clients.vllm_expert.broadcast_weights import (
    TIMEOUT,
    Outline,
    broadcast,
    group_of,
    num_joined,
)

_POLL_S: Final = 0.02
_REPLY_S: Final = 5.0
"""How much later than the broken connection the server's reply may come."""


class WeightGroup:
    """A group of one trainer and all workers of one server."""

    def __init__(self, host: str, *, size: int) -> None:
        """Opens the store where they meet, on a free port of this address alone.

        Args:
            host: An address of this machine that the workers reach.
            size: Processes of the group, this one among them.

        Raises:
            OSError: this machine does not have the address.
        """
        self._host = host
        self._size = size
        self._group: Any = None
        self._has_ended = False
        listening = socket.create_server(
            (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
        self.port: int = listening.getsockname()[1]
        self._store = TCPStore(
            host,
            self.port,
            is_master=True,
            wait_for_workers=False,
            timeout=TIMEOUT,
            master_listen_fd=listening.detach(),
        )

    def meet(self) -> None:
        """Connects all ends, once all workers have come.

        Raises:
            TimeoutError: one of them did not come.
            RuntimeError: one of them cannot be reached.
        """
        end = time.monotonic() + TIMEOUT.total_seconds()
        while (num := num_joined(self._store)) < self._size - 1:
            if self._has_ended:
                return
            if time.monotonic() > end:
                raise TimeoutError(f"{num} of {self._size - 1} workers came to meet the trainer")
            time.sleep(_POLL_S)
        self._group = group_of(self._store, 0, self._size, self._host)

    async def together(self, telling: Coroutine[Any, Any, None], work: Callable[[], None]) -> None:
        """Does this end's part in a thread while the workers do theirs.

        Args:
            telling: The call that has the workers do it, and returns when they have.
            work: `meet`, or what sends. Where the call fails too, its failure is the one that is
                raised, since it says more.

        Raises:
            OSError: a worker did not come.
            RuntimeError: the connection to a worker broke. The group is of no further use.
        """
        call = asyncio.ensure_future(telling)
        own = asyncio.ensure_future(asyncio.to_thread(work))
        # Nobody may come to hear of it, where the call says more.
        own.add_done_callback(lambda done: None if done.cancelled() else done.exception())
        try:
            await asyncio.wait({call, own}, return_when=asyncio.FIRST_EXCEPTION)
            if own.done() and own.exception() is not None:
                # A worker gives its connection up before the server's reply is here.
                await asyncio.wait({call}, timeout=_REPLY_S)
            if call.done():
                await call
            await own
            await call
        except BaseException:
            self._has_ended = True
            call.cancel()
            raise

    def send(self, tensors: Mapping[str, Tensor]) -> None:
        """Broadcasts tensors in their order, while the workers receive them.

        Raises:
            RuntimeError: a worker is gone.
        """
        for tensor in tensors.values():
            if self._has_ended:
                raise RuntimeError("nobody waits for these weights any more")
            broadcast(self._group, tensor.detach().cpu().contiguous())


def outline_of(tensors: Mapping[str, Tensor]) -> Outline:
    """What workers must know of tensors before these come."""
    return [
        (name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape))
        for name, tensor in tensors.items()
    ]
