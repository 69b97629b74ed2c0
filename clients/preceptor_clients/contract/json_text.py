"""Reading JSON of messages: strictly, and with integers of any length that a payload may hold."""

from __future__ import annotations

import json
import math
import sys
from typing import Any, Final, NoReturn

from pydantic_core import from_json

MAX_DIGITS: Final = 1 << 16
"""Digits of an integer; more would not fit into what an attempt may give back."""


_LONGEST_TEXT: Final = 4 << 20
"""Bytes of a text that may hold them: reading one takes time by the square of its digits."""


def allow_long_integers() -> None:
    """Lets this process read and write integers of up to `MAX_DIGITS` digits; 4,300 is usual."""
    sys.set_int_max_str_digits(MAX_DIGITS)


def read_json(data: bytes) -> Any:
    """The value in `data`.

    Raises:
        ValueError: it is not JSON in UTF-8, or holds NaN, infinity or half a surrogate pair.
    """
    try:
        # Not `json.loads`: that lets half surrogate pairs pass, which nothing could write again.
        return from_json(data, allow_inf_nan=False)
    except ValueError as error:
        # The fast reader ends at 4,300 digits; everything else that it refuses is refused.
        if "number out of range" not in str(error) or len(data) > _LONGEST_TEXT:
            raise
    return _with_long_integers(data)


def _with_long_integers(data: bytes) -> Any:
    try:
        value = json.loads(data.decode(), parse_constant=_refused, parse_float=_finite)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    json.dumps(value, ensure_ascii=False).encode()  # raises at half a surrogate pair
    return value


def _refused(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:32]} is outside the range of a float")
    return value
