"""Work on several cores, each piece on one: between two pieces nobody waits for anybody.

Torch shares every single operation among its threads and waits for the slowest at the end of each.
Where there are pieces enough, a thread of its own for each is quicker, all the more so on a machine
that has other work to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`work` of each item, as many at a time as this thread may use threads of torch.

    Inside, torch uses one thread, so that pieces of pieces are done in turn.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(items) < 2:
        return [work(item) for item in items]

    def alone(item: T) -> R:
        with torch.inference_mode():  # which belongs to a thread
            return work(item)

    try:
        with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
            return list(pool.map(alone, items))
    finally:
        # What one thread sets, threads to come and products in float32 take over.
        torch.set_num_threads(threads)
