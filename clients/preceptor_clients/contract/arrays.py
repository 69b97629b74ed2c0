"""Numpy arrays as fields of pydantic models, checked for element type and rank.

In JSON an array is nested lists and a missing number is `null`; it is read as `MISSING`, and the
mask beside it must say so. `MISSING` is no probability by any reading (its exponential is 0), so
code that forgets a mask does not see probability one.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, cast

import numpy as np
from pydantic import BeforeValidator, GetJsonSchemaHandler, PlainSerializer
from pydantic_core import CoreSchema, core_schema

from preceptor_clients.contract.grid import MISSING
from preceptor_clients.contract.unread import Unread

LEAST_LOGPROB: Final = -1000.0
"""No log-prob is as low as this: its probability is 0 in every float. What servers write below it
(-9999, -1e9, -FLT_MAX) stands for minus infinity or for nothing, and is no number to train on."""
_TAGS: Final = {"b": ("b1",), "i": ("i4",), "f": ("f4", "q2")}
"""Element types of a frame for a kind of array."""
_JSON_TYPE: Final = {"b": "boolean", "i": "integer", "f": "number"}


class _Array:
    """Pydantic's view of one array type."""

    def __init__(self, dtype: str, ndim: int) -> None:
        self.dtype = np.dtype(dtype)
        self.tags = _TAGS[self.dtype.kind]
        self.ndim = ndim

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                self._to_json, when_used="json"
            ),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        kind = _JSON_TYPE[self.dtype.kind]
        item: dict[str, Any] = {"type": [kind, "null"] if kind == "number" else kind}
        for _ in range(self.ndim):
            item = {"type": "array", "items": item}
        return item

    def _validate(self, value: Any) -> np.ndarray | Unread:
        if type(value) is Unread:
            return self._checked(value)
        if self._fits(value):
            return value
        if not isinstance(value, (np.ndarray, list)):
            raise ValueError("must be a list")
        array = _as_type(cast("np.ndarray | list[Any]", value), self.dtype)
        if array.size == 0 and isinstance(value, list):
            array = array.reshape((len(cast("list[Any]", value)),) + (0,) * (self.ndim - 1))
        if array.ndim != self.ndim:
            raise ValueError(f"has {array.ndim} dimensions, wants {self.ndim}")
        return array

    def _fits(self, value: Any) -> bool:
        """Whether it is such an array already, as those of a frame are."""
        return (
            type(value) is np.ndarray
            and value.ndim == self.ndim
            and value.dtype == self.dtype
            and (self.dtype.kind != "f" or _all_finite(value))
        )

    def _checked(self, value: Unread) -> Unread:
        if value.tag not in self.tags:
            raise ValueError(f"has elements of type {value.tag}, wants {self.dtype}")
        if len(value.shape) != self.ndim:
            raise ValueError(f"has {len(value.shape)} dimensions, wants {self.ndim}")
        return value

    def _to_json(self, value: np.ndarray | Unread) -> list[Any]:
        return _as_lists(value.read() if isinstance(value, Unread) else value)


def _all_finite(array: np.ndarray) -> bool:
    # Not `.all()`, which is a function of Python around this.
    return bool(np.logical_and.reduce(np.isfinite(array), axis=None))


def _as_type(value: np.ndarray | list[Any], dtype: np.dtype[Any]) -> np.ndarray:
    """`value` as a finite array of `dtype`; nothing is wrapped around or read into a number."""
    if isinstance(value, list):
        value = _from_lists(value, dtype)
    if value.size and value.dtype.kind not in ("fi" if dtype.kind == "f" else dtype.kind):
        raise ValueError(f"has elements of type {value.dtype}, wants {dtype}")
    if dtype.kind == "i" and value.size:
        limits = np.iinfo(dtype)
        if value.min() < limits.min or value.max() > limits.max:
            raise ValueError(f"has elements outside {dtype}")
    with np.errstate(over="ignore"):
        array = value.astype(dtype, copy=False)
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("holds NaN or infinity; use null and the mask")
    return array


def _from_lists(value: list[Any], dtype: np.dtype[Any]) -> np.ndarray:
    try:
        array = np.array(value)
        if array.dtype.kind == "O" and dtype.kind == "f":
            missing = array == None  # noqa: E711 - element by element
            array[missing] = MISSING
            if not all(type(number) in (int, float) for number in array.flat):
                raise ValueError
            array = array.astype(np.float64)
    except (ValueError, TypeError, OverflowError):
        raise ValueError("must be a rectangular list of numbers") from None
    return array


def _as_lists(array: np.ndarray) -> list[Any]:
    if array.dtype.kind != "f":
        return cast("list[Any]", array.tolist())
    cells = array.astype(object)
    cells[array <= MISSING / 2] = None
    return cast("list[Any]", cells.tolist())


def _tree_to_json(tree: Any) -> Any:
    if isinstance(tree, np.ndarray):
        array = cast("np.ndarray", tree)
        name = f"{array.dtype.kind}{array.dtype.itemsize}"
        return {"$array": {"type": name, "shape": list(array.shape), "values": _flat(array)}}
    if isinstance(tree, dict):
        return {k: _tree_to_json(v) for k, v in cast("dict[str, Any]", tree).items()}
    if isinstance(tree, (list, tuple)):
        return [_tree_to_json(v) for v in cast("list[Any]", tree)]
    return tree


def _flat(array: np.ndarray) -> list[Any]:
    return _as_lists(array.reshape(-1))


def _tree_from_json(tree: Any) -> Any:
    if isinstance(tree, list):
        return [_tree_from_json(v) for v in cast("list[Any]", tree)]
    if not isinstance(tree, dict):
        return tree
    match cast("dict[str, Any]", tree):
        case {"$array": {"type": str(name), "shape": [*shape], "values": [*values]}}:
            dtype = _TREE_DTYPES.get(name)
            if dtype is None or not all(type(n) is int and n >= 0 for n in shape):
                raise ValueError(f"{name} of shape {shape} is no array")
            return _as_type(values, dtype).reshape(shape)
        case fields:
            return {k: _tree_from_json(v) for k, v in fields.items()}


_TREE_DTYPES: Final = {name: np.dtype(name) for name in ("b1", "i4", "i8", "f4")}

ArrayTree = Annotated[
    dict[str, Any],
    BeforeValidator(_tree_from_json),
    PlainSerializer(_tree_to_json, when_used="json"),
]
"""JSON values with arrays anywhere inside; in JSON each says its type:
`{"$array": {"type": "f4", "shape": [2, 3], "values": [...]}}`."""

Ints1 = Annotated[np.ndarray, _Array("i4", 1)]
Ints2 = Annotated[np.ndarray, _Array("i4", 2)]
Floats1 = Annotated[np.ndarray, _Array("f4", 1)]
Floats2 = Annotated[np.ndarray, _Array("f4", 2)]
Bools1 = Annotated[np.ndarray, _Array("b1", 1)]
Bools2 = Annotated[np.ndarray, _Array("b1", 2)]
