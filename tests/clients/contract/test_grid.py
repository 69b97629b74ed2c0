"""Codes of the grid are remembered for arrays that nobody can change, and for no others."""

from __future__ import annotations

import gc

import numpy as np

from preceptor_clients.contract import frame, grid
from preceptor_clients.contract.arrays import MISSING
from preceptor_clients.contract.wire import QUANTISED

CODES = np.array([[65535, 40000, 0], [1, 2, 3]], "<u2")


def test_every_code_comes_back_from_its_value() -> None:
    every = np.arange(1 << 16, dtype="<u2")

    assert np.array_equal(grid.codes(grid.values(every)), every)
    assert grid.values(every)[0] == np.float32(MISSING)


def test_codes_are_remembered_as_long_as_the_array_lives() -> None:
    array = grid.read_only_values(CODES)
    key = id(array)

    assert grid.known_codes(array) is CODES
    assert grid.known_codes(array.copy()) is None
    assert grid.known_codes(array[:1]) is None
    del array
    gc.collect()
    assert key not in grid._known


def test_an_array_that_was_made_writable_is_looked_at_again() -> None:
    array = grid.read_only_values(CODES)
    array.setflags(write=True)
    array[0, 0] = -0.123456

    assert grid.known_codes(array) is None
    assert not grid.is_on_grid(array)


def test_a_frame_that_was_read_is_rendered_to_the_same_bytes() -> None:
    message = {"logprobs_PK": grid.values(CODES), "ids_PK": np.zeros((2, 0), np.int32)}
    data = frame.encode(message, quantised=QUANTISED)

    read = frame.decode(data)

    assert grid.known_codes(read["logprobs_PK"]) is not None
    assert frame.encode(read, quantised=QUANTISED) == data
    assert frame.encode(read) == frame.encode(message)
