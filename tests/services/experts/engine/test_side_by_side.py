"""Claims about work on several cores."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from preceptor_services.experts.engine.side_by_side import side_by_side


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_items() -> None:
    assert side_by_side(lambda item: 2 * item, list(range(20))) == list(range(0, 40, 2))


def test_pieces_run_at_the_same_time_with_one_thread_of_torch_each() -> None:
    all_there = threading.Barrier(3, timeout=30)

    def work(_: int) -> tuple[int, bool]:
        all_there.wait()
        return torch.get_num_threads(), torch.is_inference_mode_enabled()

    assert side_by_side(work, [1, 2, 3]) == [(1, True)] * 3


def test_pieces_of_pieces_are_done_in_turn() -> None:
    def outer(_: int) -> set[int]:
        return set(side_by_side(lambda _: threading.get_ident(), [1, 2, 3]))

    assert all(len(threads) == 1 for threads in side_by_side(outer, [1, 2]))


def test_the_number_of_threads_is_what_it_was_also_after_a_failure() -> None:
    def fail(item: int) -> int:
        raise ValueError(item)

    with pytest.raises(ValueError, match="1"):
        side_by_side(fail, [1, 2])

    assert torch.get_num_threads() == 3
    seen: list[int] = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [3]
