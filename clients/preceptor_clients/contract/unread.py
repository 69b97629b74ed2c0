"""An array that stays the bytes that it was received as.

A process that stores and passes on what others have written and check reads none of its arrays.
`frame.decode` gives them as these, and `frame.encode` takes them.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from preceptor_clients.contract import grid

DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "b1": np.dtype("u1"),
    "i4": np.dtype("<i4"),
    "i8": np.dtype("<i8"),
    "f4": np.dtype("<f4"),
    "q2": np.dtype("<u2"),
}
"""Elements of a frame's arrays, by type."""


class Unread:
    """One array of a frame: its element type, its shape and its bytes, which were checked."""

    __slots__ = ("data", "nbytes", "shape", "tag")

    def __init__(self, tag: str, shape: tuple[int, ...], data: memoryview) -> None:
        self.tag = tag
        self.shape = shape
        self.data = data
        self.nbytes = data.nbytes
        """Bytes in the frame."""

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def read(self) -> np.ndarray:
        """The array, which cannot be written to.

        Raises:
            ValueError: numpy cannot represent the shape.
        """
        array = np.frombuffer(self.data or b"", DTYPES[self.tag])
        if len(self.shape) != 1:
            array = array.reshape(self.shape)
        if self.tag == "q2":
            # Read-only like the other arrays, which are views: whether a write fails must not
            # depend on the element type.
            return grid.read_only_values(array)
        return array.view(np.bool_) if self.tag == "b1" else array


def array_of(value: np.ndarray | Unread) -> np.ndarray:
    """The array, read or not."""
    return value.read() if isinstance(value, Unread) else value
