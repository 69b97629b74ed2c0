"""Numpy arrays as fields of pydantic models, checked for element type and rank.

In JSON an array is nested lists and a missing number is `null`; it is read as `MISSING`, and the
mask beside it must say so. `MISSING` is no probability by any reading (its exponential is 0), so
code that forgets a mask does not see probability one.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, cast

import numpy as np
from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

MISSING: Final = -1e9
_JSON_TYPE: Final = {"b": "boolean", "i": "integer", "f": "number"}


class _Array:
    """Pydantic's view of one array type."""

    def __init__(self, dtype: str, ndim: int) -> None:
        self.dtype = np.dtype(dtype)
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

    def _validate(self, value: Any) -> np.ndarray:
        if isinstance(value, np.ndarray):
            given = cast("np.ndarray", value)
            if given.dtype.kind != self.dtype.kind:
                raise ValueError(f"has element type {given.dtype}, wants {self.dtype}")
            array = given.astype(self.dtype, copy=False)
        else:
            array = self._from_list(value)
        if array.ndim != self.ndim:
            raise ValueError(f"has {array.ndim} dimensions, wants {self.ndim}")
        if self.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError("holds NaN or infinity; use null and the mask")
        return array

    def _from_list(self, value: Any) -> np.ndarray:
        if not isinstance(value, list):
            raise ValueError("must be a list")
        if not value:
            return np.zeros((0,) * self.ndim, self.dtype)
        try:
            if self.dtype.kind == "f":
                floats = np.array(value, dtype=np.float64)
                return np.where(np.isnan(floats), MISSING, floats).astype(self.dtype)
            array = np.array(cast("list[Any]", value))
        except (ValueError, TypeError, OverflowError):
            raise ValueError("must be a rectangular list of numbers") from None
        if array.size == 0:
            return array.astype(self.dtype)
        if array.dtype.kind != self.dtype.kind:
            raise ValueError(f"has elements of another type than {self.dtype}")
        limits = np.iinfo(self.dtype) if self.dtype.kind == "i" else None
        if limits and (array.min() < limits.min or array.max() > limits.max):
            raise ValueError(f"has elements outside {self.dtype}")
        return array.astype(self.dtype)

    def _to_json(self, value: np.ndarray) -> list[Any]:
        if self.dtype.kind != "f":
            return cast("list[Any]", value.tolist())
        cells = value.astype(object)
        cells[value <= MISSING / 2] = None
        return cast("list[Any]", cells.tolist())


Ints1 = Annotated[np.ndarray, _Array("i4", 1)]
Ints2 = Annotated[np.ndarray, _Array("i4", 2)]
Floats1 = Annotated[np.ndarray, _Array("f4", 1)]
Floats2 = Annotated[np.ndarray, _Array("f4", 2)]
Bools1 = Annotated[np.ndarray, _Array("b1", 1)]
Bools2 = Annotated[np.ndarray, _Array("b1", 2)]
