"""Work on several cores, each piece on one core, without waiting for the others in between.

Torch splits every single operation among its threads and waits for the slowest at the end of each.
With enough pieces, one thread per piece is faster, especially on a machine with other load.
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
    """`work` of each item, with as many at a time as this thread may use torch threads.

    Inside, torch uses one thread, so nested calls process their items one by one.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(items) < 2:
        return [work(item) for item in items]

    def alone(item: T) -> R:
        with torch.inference_mode():  # a setting of each thread
            return work(item)

    try:
        with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
            return list(pool.map(alone, items))
    finally:
        # The setting of one thread also affects later threads and float32 products.
        torch.set_num_threads(threads)
