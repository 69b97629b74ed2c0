"""The frame: the binary rendering of every message that carries arrays.

A message is JSON in which some values are numpy arrays. As JSON text the arrays become nested
lists; as a frame they stay raw bytes, and the JSON holds a reference `{"$array": n}` to the n-th of
them. Layout, all integers little-endian:

    offset  size  field
    0       4     magic "PCF1"
    4       1     body encoding: 0 raw, 1 zstd
    5       3     zero
    8       4     H, length of the header in bytes; 20 + H is a multiple of 8
    12      8     B, length of the body in bytes once decompressed
    20      H     header: UTF-8 JSON {"message": ..., "arrays": [["i4", [2, 3]], ...]}, then spaces
    20+H    rest  body: the arrays in order, row-major, each with zeros up to a multiple of 8

Element types: `b1` bool (one byte, 0 or 1), `i4` int32, `i8` int64, `f4` float32, and `q2`: a
log-prob as a u16 code of `grid.py`. Every array is referenced exactly once. A key of the message
that begins with `$` is escaped by one more `$`. `docs/reference/wire-format.md` has the
specification and `tests/contract/vectors/` the test vectors.

Before it allocates, a decoder checks every length against the bytes received or against a limit.
It checks the elements of small arrays together, because a frame of short answers has hundreds.
Left out on purpose: pickled objects, strings inside arrays, big-endian data.

Example:
    data = encode({"ids": np.arange(3, dtype=np.int32)})
    decode(data)["ids"]          # a read-only view into `data`
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

import numpy as np
import zstandard
from pydantic import BaseModel
from pydantic_core import to_json

from preceptor_clients.contract import grid
from preceptor_clients.contract.errors import MalformedFrame
from preceptor_clients.contract.json_text import read_json
from preceptor_clients.contract.unread import DTYPES, Unread

MEDIA_TYPE: Final = "application/vnd.preceptor.frame"
MAGIC: Final = b"PCF1"
_PREFIX: Final = struct.Struct("<4sB3xIQ")
_ITEM_BYTES: Final = {tag: dtype.itemsize for tag, dtype in DTYPES.items()}
_TAGS: Final = {"b1": "b1", "i4": "i4", "i8": "i8", "f4": "f4"}
_USUAL_TAGS: Final = {np.dtype(name): _TAGS[name] for name in _TAGS}
"""Of this machine's own byte order; found faster than by name."""
_MAX_DIMS: Final = 4
_LEAST_BOUND: Final = 1 << 31
"""Of a dimension, also in a frame with a smaller body."""
_SMALL_BYTES: Final = 1 << 12
_ZEROS: Final = bytes(8)
_PLAIN: Final = frozenset({str, int, bool, type(None)})
"""Types of most values, which stand for themselves."""
_FREE_BYTES: Final = 1 << 20
_MAX_EXPANSION: Final = 1000
"""A compressed body may expand to `_FREE_BYTES` plus this multiple of its own size. A larger ratio
is treated as a decompression bomb."""


class Limits(NamedTuple):
    """What a decoder accepts; checked before anything is allocated."""

    header_bytes: int = 16 << 20
    body_bytes: int = 512 << 20
    arrays: int = 200_000
    depth: int = 64


DEFAULT_LIMITS: Final = Limits()


_Spec = tuple[str, tuple[int, ...], int, int]
"""Tag, shape, bytes, and bytes with the zeros after them. A frame of short answers has hundreds."""
_Array = np.ndarray | Unread
_Found = list[tuple[str, _Array, str]]
"""Arrays of a message in their order: element type, array and its key."""


def encode(
    message: Any, *, compress: bool = False, quantised: frozenset[str] = frozenset()
) -> bytes:
    """Renders `message` as a frame, without loss.

    Args:
        message: JSON values, with messages of the contract, and numpy arrays of bool, int32, int64
            or float32, anywhere inside. Of a message, the fields that are None are left out.
        compress: Compress the body with zstd, where the result is smaller.
        quantised: Names of keys whose float32 arrays are encoded as `q2` if all their values are on
            its grid (`grid.quantise`).

    Raises:
        ValueError: an array holds NaN or infinity or has an unsupported element type, a number is
            not finite, or a text holds a lone surrogate.
        TypeError: a value is of another type.
    """
    arrays: _Found = []
    stripped = _strip(message, "", arrays, quantised)
    specs = [(tag, array.shape) for tag, array, _ in arrays]
    # A third of the time of `json`. What this one renders beyond JSON, `_strip` refuses.
    header = to_json({"message": stripped, "arrays": specs})
    # Spaces are white space in JSON. They align the body, so that a reader can view an array of
    # int64 in place.
    header += b" " * (-(_PREFIX.size + len(header)) % 8)
    pieces: list[Any] = []  # bytes, and views of arrays as bytes, which are copied once
    floats: list[bytes] = []
    length = 0
    for tag, array, _ in arrays:
        num_bytes = array.nbytes
        if isinstance(array, Unread):
            pieces.append(array.data)
        else:
            piece = _as_bytes(array)
            pieces.append(piece)
            if tag == "f4" and piece.__class__ is bytes:
                floats.append(piece)
        padding = -num_bytes % 8
        if padding:
            pieces.append(_ZEROS[:padding])
        length += num_bytes + padding
    if floats and not _all_finite(np.frombuffer(b"".join(floats), DTYPES["f4"])):
        raise _not_finite(next(key for tag, array, key in arrays if _is_at_fault(tag, array)))
    if compress and length:
        body = b"".join(pieces)
        packed = zstandard.ZstdCompressor(level=1).compress(body)
        # A body that exceeds the decoder's compression ratio, such as one of zeros, is sent raw.
        if len(packed) < length <= _most_from(len(packed)):
            return _PREFIX.pack(MAGIC, 1, len(header), length) + header + packed
    return b"".join((_PREFIX.pack(MAGIC, 0, len(header), length), header, *pieces))


def _most_from(packed: int) -> int:
    return _FREE_BYTES + _MAX_EXPANSION * packed


def _as_bytes(array: np.ndarray) -> Any:
    # One call copies a small array; a large one is copied only once, by `join`.
    if array.nbytes <= _SMALL_BYTES:
        return array.tobytes()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _strip(value: Any, key: str, arrays: _Found, quantised: frozenset[str]) -> Any:
    kind = value.__class__
    if kind in _PLAIN:
        return value
    if kind is Unread:
        arrays.append((*_unread_wire(value, key, quantised), key))
        return {"$array": len(arrays) - 1}
    if kind is np.ndarray:
        arrays.append((*_wire(value, key, quantised), key))
        return {"$array": len(arrays) - 1}
    if kind is tuple or kind is list:
        return [_strip(v, key, arrays, quantised) for v in value]
    if kind is dict:
        # Most values are plain; a call for each of them would take longer than the rest. A key that
        # begins with `$` is escaped, so that it is not read as a reference to an array.
        return {
            k if k[:1] != "$" else "$" + k: v
            if type(v) in _PLAIN
            else _strip(v, k, arrays, quantised)
            for k, v in value.items()
        }
    # Last, because pydantic looks through its classes at each question.
    if isinstance(value, BaseModel):
        # As `model_dump(exclude_none=True)`, which makes another copy of everything.
        return {
            k: v if type(v) in _PLAIN else _strip(v, k, arrays, quantised)
            for k, v in value.__dict__.items()
            if v is not None
        }
    return _of_rare_type(value, key, arrays, quantised)


def _of_rare_type(value: Any, key: str, arrays: _Found, quantised: frozenset[str]) -> Any:
    """A float, or a value whose type is derived from one that JSON has."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{key}: {value} is not finite, and JSON has no such number")
        return value
    if isinstance(value, (str, int)):
        return value
    if isinstance(value, np.ndarray):
        return _strip(np.asarray(cast("Any", value)), key, arrays, quantised)
    for usual in (dict, list, tuple):
        if isinstance(value, usual):
            return _strip(usual(cast("Any", value)), key, arrays, quantised)
    raise TypeError(f"{key}: a value of {type(value)} cannot be part of a message")


def _wire(array: np.ndarray, key: str, quantised: frozenset[str]) -> tuple[str, np.ndarray]:
    tag = _USUAL_TAGS.get(array.dtype) or _TAGS.get(array.dtype.str[1:])
    if tag is None:
        raise ValueError(
            f"{key}: arrays of {array.dtype} are not supported; use bool, int32, int64 or float32"
        )
    if tag == "f4":
        known = grid.known_codes(array) if key in quantised else None
        if known is not None:
            return "q2", known
        # JSON cannot represent NaN, so such a message could not be rendered as JSON. Small arrays
        # are checked together, by `encode`.
        later = array.nbytes <= _SMALL_BYTES and key not in quantised
        if not later and not _all_finite(array):
            raise _not_finite(key)
        if key in quantised:
            codes = grid.codes(array)
            # Only arrays whose values are already on the grid: the frame itself never rounds.
            if np.array_equal(grid.values(codes), array):
                return "q2", codes
    wanted = DTYPES[tag]
    return tag, array if array.dtype is wanted else array.astype(wanted, copy=False)


def _all_finite(array: np.ndarray) -> bool:
    # Not `.all()`, which is a function of Python around this.
    return bool(np.logical_and.reduce(np.isfinite(array), axis=None))


def _is_at_fault(tag: str, array: _Array) -> bool:
    return tag == "f4" and isinstance(array, np.ndarray) and not _all_finite(array)


def _not_finite(key: str) -> ValueError:
    return ValueError(f"{key}: NaN or infinity is never encoded; mask the position instead")


def _unread_wire(array: Unread, key: str, quantised: frozenset[str]) -> tuple[str, _Array]:
    """As `_wire` of the array read: whether a process reads an array must not change a frame."""
    if array.tag in ("f4", "q2") and (array.tag == "q2") != (key in quantised):
        return _wire(array.read(), key, quantised)
    return array.tag, array


class Sizes(NamedTuple):
    """Bytes of a frame, as its prefix states them."""

    header: int
    body: int


def sizes(data: bytes) -> Sizes | None:
    """The sizes that a frame claims to have; None for other bytes."""
    if len(data) < _PREFIX.size or data[:4] != MAGIC:
        return None
    _, _, header, body = _PREFIX.unpack_from(data)
    # What a hostile frame claims beyond its bytes is refused as soon as it is decoded.
    return Sizes(min(header, len(data)), body)


def decode(
    data: bytes | memoryview, *, limits: Limits = DEFAULT_LIMITS, unread: bool = False
) -> Any:
    """Reads a frame back into JSON values and numpy arrays.

    Arrays are read-only, and views into `data` unless they were compressed or `q2`.

    Args:
        data: The frame.
        limits: What it may hold.
        unread: Arrays become `Unread`, for a reader that only passes them on. They are checked all
            the same.

    Raises:
        MalformedFrame: wrong magic or lengths, an unknown element type, an array that is not
            referenced exactly once, a bool that is neither 0 nor 1, a non-finite number, or a size
            over `limits`.
    """
    view = memoryview(data)
    if len(view) < _PREFIX.size:
        raise _malformed("prefix", f"{len(view)} bytes, a frame has at least {_PREFIX.size}")
    magic, encoding, header_len, body_len = _PREFIX.unpack_from(view)
    # The three spare bytes must be 0, so that a later version may give them a meaning.
    if magic != MAGIC or encoding not in (0, 1) or any(view[5:8]):
        raise _malformed("prefix", "unknown magic or body encoding")
    if header_len > limits.header_bytes or body_len > limits.body_bytes:
        raise _malformed(
            "prefix", f"header of {header_len} or body of {body_len} bytes is over the limit"
        )
    start = _PREFIX.size + header_len
    if start % 8 or len(view) < start:
        raise _malformed("header", "is cut off, or does not end on a multiple of 8")
    message, described = _parse_header(bytes(view[_PREFIX.size : start]), limits)
    specs = [_parse_spec(spec, body_len) for spec in described]
    expected = sum([padded for _, _, _, padded in specs])
    # Checked before the body is read: the header determines how much is decompressed.
    if expected != body_len:
        raise _malformed("arrays", f"need {expected} bytes, the body has {body_len}")
    body = _body(view[start:], encoding, body_len)
    parts = _parts(body, specs)
    arrays: list[_Array | None] = [*parts] if unread else [part.read() for part in parts]
    filled = _fill(message, arrays, limits.depth)
    # No check of the message would see an array without a reference.
    if [array for array in arrays if array is not None]:
        raise _malformed("arrays", "contain an array that the message does not refer to")
    return filled


def _malformed(part: str, detail: str) -> MalformedFrame:
    return MalformedFrame(f"{part}: {detail}", field=f"frame.{part}")


def _parse_header(header: bytes, limits: Limits) -> tuple[Any, list[Any]]:
    try:
        parsed = read_json(header)
    except ValueError as error:
        raise _malformed("header", f"is not JSON: {error}") from None
    match parsed:
        case {"message": message, "arrays": [*specs]} if len(parsed) == 2:
            if len(specs) <= limits.arrays:
                return message, specs
            raise _malformed("arrays", f"are more than the limit of {limits.arrays}")
        case _:
            raise _malformed(
                "header", "must have `message` and a list `arrays`, and no other field"
            )


def _parse_spec(spec: Any, body_len: int) -> _Spec:
    # Not a `match`: it takes three times as long, and a frame of short answers has hundreds.
    if spec.__class__ is list and len(spec) == 2:
        tag, shape = spec
        num_bytes = _ITEM_BYTES.get(tag) if type(tag) is str else None
        if num_bytes and shape.__class__ is list and len(shape) <= _MAX_DIMS:
            # The bound also holds for empty arrays: numpy cannot represent larger dimensions.
            most = body_len if body_len > _LEAST_BOUND else _LEAST_BOUND
            for n in shape:
                if type(n) is not int or not 0 <= n <= most:
                    break
                num_bytes *= n
            else:
                return tag, tuple(shape), num_bytes, -(-num_bytes // 8) * 8
    raise _malformed("arrays", f"{spec!r:.80} is not a valid [type, shape]")


def _body(rest: memoryview, encoding: int, length: int) -> memoryview:
    if encoding == 0:
        if len(rest) != length:
            raise _malformed("body", f"has {len(rest)} bytes instead of {length}")
        return rest
    if length > _most_from(len(rest)):
        raise _malformed(
            "body", f"{len(rest)} compressed bytes claim {length}, more than the allowed ratio"
        )
    try:
        # The zstd frame states its own size. It is checked first, so that no larger buffer is
        # allocated.
        if zstandard.get_frame_parameters(rest).content_size != length:
            raise _malformed("body", "has another size in its zstd header")
        body = zstandard.ZstdDecompressor().decompress(
            rest, max_output_size=length, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise _malformed("body", f"is not zstd: {error}") from None
    if len(body) != length:
        raise _malformed("body", "is cut off")
    return memoryview(body)


def _parts(body: memoryview, specs: Sequence[_Spec]) -> list[Unread]:
    """The arrays of the body, whose elements are checked, and what is between them."""
    parts: list[Unread] = []
    bools: list[memoryview] = []
    floats: list[memoryview] = []
    padding: list[memoryview] = []
    offset = 0
    for tag, shape, num_bytes, padded in specs:
        end = offset + num_bytes
        part = Unread(tag, shape, body[offset:end])
        parts.append(part)
        offset += padded
        if padded != num_bytes:
            padding.append(body[end:offset])
        if not num_bytes:
            _check_empty(part)
        elif tag == "b1":
            bools.append(part.data)
        elif tag == "f4":
            floats.append(part.data)
    # The padding must be zero: each message has exactly one rendering, without hidden data.
    if padding and b"".join(padding).strip(b"\0"):
        raise _malformed("body", "has padding that is not zero between arrays")
    # numpy accepts any byte as a bool, but its operations do not treat values above 1 alike.
    if any(bytes(data).strip(b"\0\1") for data in _together(bools)):
        raise _malformed("body", "has a bool that is neither 0 nor 1")
    for data in _together(floats):
        if not _all_finite(np.frombuffer(data, DTYPES["f4"])):
            raise _malformed("body", "has NaN or infinity in an array")
    return parts


def _together(found: Sequence[memoryview]) -> list[bytes | memoryview]:
    """The bytes of some arrays: those of small arrays in one piece."""
    if not found:
        return []
    large = [data for data in found if data.nbytes > _SMALL_BYTES]
    return [*large, b"".join(data for data in found if data.nbytes <= _SMALL_BYTES)]


def _check_empty(part: Unread) -> None:
    try:
        part.read()
    except ValueError as error:
        raise _malformed("arrays", f"{part.shape} is not a valid shape: {error}") from None


def _fill(value: Any, arrays: list[_Array | None], depth: int) -> Any:
    """The message with its references replaced; each array is taken out of `arrays` once."""
    if depth == 0:
        raise _malformed("header", "the message is nested too deeply")
    kind = value.__class__
    if kind is dict:
        if "$array" in value:
            return _take(value, arrays)
        # Most values are plain; a call for each of them would take longer than the rest.
        return {
            k if k[:1] != "$" else _unescaped(k): v
            if type(v) in _PLAIN
            else _fill(v, arrays, depth - 1)
            for k, v in value.items()
        }
    if kind is list:
        return [v if type(v) in _PLAIN else _fill(v, arrays, depth - 1) for v in value]
    if kind is float and not math.isfinite(value):
        raise _malformed("header", "has a number outside the range of float64")
    return value


def _unescaped(key: str) -> str:
    if not key.startswith("$"):
        return key
    if not key.startswith("$$"):
        raise _malformed("header", f"has the reserved key {key!r:.40}")
    return key[1:]


def _take(reference: dict[str, Any], arrays: list[_Array | None]) -> _Array:
    index = reference["$array"]
    if len(reference) == 1 and type(index) is int and 0 <= index < len(arrays):
        array = arrays[index]
        if array is not None:
            arrays[index] = None
            return array
    raise _malformed(
        "header", f"refers to array {index!r:.40}, which does not exist or was referenced before"
    )
