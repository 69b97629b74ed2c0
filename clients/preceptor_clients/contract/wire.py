"""Messages to bytes and back, in either rendering: JSON or the frame.

Media types name the rendering. A body has `Content-Type: application/json` or
`application/vnd.preceptor.frame`. A reply is a frame where `Accept` names the frame, else JSON. The
frame's media type has two parameters: `;logprobs=f32` for log-probs that are not rounded to the u16
grid, `;body=zstd` for a compressed body.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from preceptor_clients.contract import frame
from preceptor_clients.contract.errors import (
    Invalid,
    MalformedFrame,
    UnsupportedMediaType,
    from_validation,
)
from preceptor_clients.contract.json_text import read_json
from preceptor_clients.contract.unread import Unread

JSON: Final = "application/json"
FRAME: Final = frame.MEDIA_TYPE
QUANTISED: Final = frozenset({"logprobs_PK", "candidate_logprobs_PC"})
"""Arrays that are sent as u16 where that loses nothing; their builders have rounded them before
(`answers.build_answer`)."""
_FRAME_ADVANTAGE: Final = 64
"""How much longer JSON takes to read than as many bytes of arrays."""
_NO_NUMBERS: Final = frozenset({str, bool, type(None), np.ndarray, Unread})
"""Types of values of a decoded message in which no number can be too long."""

M = TypeVar("M", bound=BaseModel)


class Rendering(NamedTuple):
    """The requested rendering of a reply."""

    media_type: str = JSON
    exact: bool = False
    """Log-probs as float32, not rounded."""
    compress: bool = False


def accepted(accept: str | None) -> Rendering:
    """The rendering that an `Accept` header requests: the frame where it is named, else JSON."""
    for part in (accept or "").lower().split(","):
        media_type, *parameters = (word.strip() for word in part.split(";"))
        if media_type == FRAME:
            return Rendering(FRAME, "logprobs=f32" in parameters, "body=zstd" in parameters)
    return Rendering()


def render(
    message: BaseModel, media_type: str = FRAME, *, exact: bool = False, compress: bool = False
) -> bytes:
    """`message` as bytes of `media_type`, without loss.

    `exact` keeps even rounded log-probs as float32.
    """
    if media_type == JSON:
        return message.model_dump_json(exclude_none=True).encode()
    quantised = frozenset[str]() if exact else QUANTISED
    return frame.encode(message, compress=compress, quantised=quantised)


def parse(
    cls: type[M],
    body: bytes,
    media_type: str | None,
    *,
    limits: frame.Limits = frame.DEFAULT_LIMITS,
    integer_bits: int | None = None,
    unread: bool = False,
) -> M:
    """The message of type `cls` in `body`; no media type means JSON.

    Args:
        cls: Type of the message.
        body: Its bytes.
        media_type: Of the bytes.
        limits: What a frame may hold.
        integer_bits: Refuses integers of more bits, and numbers outside the range of float64,
            anywhere in the message.
        unread: Arrays of a frame become `Unread`, for a reader that only passes them on.

    Raises:
        UnsupportedMediaType: `media_type` is neither JSON nor the frame.
        MalformedFrame: the bytes are not valid for `media_type`.
        Invalid: fields are missing, unknown or wrong; each is named.
    """
    base = (media_type or JSON).partition(";")[0].strip().lower()
    if base not in (FRAME, JSON):
        raise UnsupportedMediaType(f"{base!r} is neither {JSON} nor {FRAME}", field="content-type")
    if base == FRAME:
        fields = frame.decode(body, limits=limits, unread=unread)
    else:
        try:
            fields = read_json(body)
        except ValueError as error:
            raise MalformedFrame(f"the body is not JSON: {error}", field="body") from None
    if integer_bits is not None:
        _check_numbers(fields, "", 1 << (integer_bits - 1))
    try:
        return cls.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error) from None


def read(message: M) -> M:
    """A message that was parsed with `unread`, with its arrays read."""
    fields = frame.decode(frame.encode(message, quantised=QUANTISED))
    return type(message).model_validate(fields)


def reading_size(body: bytes) -> int:
    """Bytes of JSON that take as long to read as `body`: a frame's arrays are not copied."""
    sizes = frame.sizes(body)
    return len(body) if sizes is None else sizes.header + sizes.body // _FRAME_ADVANTAGE


def _check_numbers(value: Any, path: str, limit: int) -> None:
    # Most values need no call, which would take longer than their check.
    kind = value.__class__
    if kind is dict:
        for key, one in value.items():
            of = one.__class__
            if of not in _NO_NUMBERS and not (of is int and -limit <= one < limit):
                _check_numbers(one, f"{path}.{key}" if path else key, limit)
    elif kind is list:
        for place, one in enumerate(value):
            if one.__class__ is not int or not -limit <= one < limit:
                _check_numbers(one, f"{path}[{place}]", limit)
    elif kind is float and not math.isfinite(value):
        raise Invalid("is a number outside the range of float64", field=path or "body")
    elif kind is int and not -limit <= value < limit:
        raise Invalid(f"does not fit into {limit.bit_length()} bits", field=path or "body")
