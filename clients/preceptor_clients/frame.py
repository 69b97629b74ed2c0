"""The frame: one binary rendering for every message that carries arrays.

A message is JSON in which some values are numpy arrays. As JSON text the arrays become nested
lists; as a frame they stay raw bytes, and the JSON holds a reference `{"$array": n}` to the n-th of
them. Layout, all integers little-endian:

    offset  size  field
    0       4     magic "PCF1"
    4       1     body encoding: 0 raw, 1 zstd
    5       3     zero
    8       4     H, length of the header in bytes
    12      8     B, length of the body in bytes once decompressed
    20      H     header: UTF-8 JSON {"message": ..., "arrays": [["i4", [2, 3]], ...]}
    20+H    rest  body: the arrays in order, row-major, without padding

Element types: `b1` bool (one byte, 0 or 1), `i4` int32, `i8` int64, `f4` float32, and `q2`: a
log-prob as u16 over [-32, 0] (code 0 is a missing value, code c is -32 + (c - 1) * 32/65534, so
that 65535 is 0). `docs/wire-format.md` has the specification and `tests/contract/vectors/` the test
vectors. Left out on purpose: pickled objects, strings inside arrays, big-endian data.

Example:
    data = encode({"ids": np.arange(3, dtype=np.int32)})
    decode(data)["ids"]          # a read-only view into `data`
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any, Final, NamedTuple, cast

import numpy as np
import zstandard

from preceptor_clients.arrays import MISSING
from preceptor_clients.errors import MalformedFrame

MEDIA_TYPE: Final = "application/vnd.preceptor.frame"
MAGIC: Final = b"PCF1"
LOGPROB_FLOOR: Final = -32.0
LOGPROB_STEP: Final = 32.0 / 65534.0
_PREFIX: Final = struct.Struct("<4sB3xIQ")
_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "b1": np.dtype("u1"),
    "i4": np.dtype("<i4"),
    "i8": np.dtype("<i8"),
    "f4": np.dtype("<f4"),
    "q2": np.dtype("<u2"),
}
_TAGS: Final = {"b": "b1", "i4": "i4", "i8": "i8", "f4": "f4"}


class Limits(NamedTuple):
    """What a decoder accepts; checked before anything is allocated."""

    header_bytes: int = 16 << 20
    body_bytes: int = 512 << 20
    arrays: int = 200_000
    depth: int = 64


DEFAULT_LIMITS: Final = Limits()


def quantise(logprobs: np.ndarray) -> np.ndarray:
    """Log-probs rounded to the grid of `q2`, as float32; what is missing stays missing."""
    return _TABLE[_codes(logprobs)]


def _codes(logprobs: np.ndarray) -> np.ndarray:
    # float32 is exact enough: its error of 2e-6 at -32 is far below the half step of 2.4e-4, and a
    # value of the grid always comes back to its own code.
    clipped = np.clip(logprobs, np.float32(LOGPROB_FLOOR), np.float32(0.0), dtype=np.float32)
    codes = np.rint((clipped - np.float32(LOGPROB_FLOOR)) * np.float32(1.0 / LOGPROB_STEP))
    codes += np.float32(1.0)
    return np.where(_is_missing(logprobs), np.float32(0.0), codes).astype("<u2")


def _is_missing(logprobs: np.ndarray) -> np.ndarray:
    return (logprobs <= MISSING / 2) & (logprobs > -np.inf)


def _table() -> np.ndarray:
    table = np.arange(-1, 65535, dtype=np.float64) * LOGPROB_STEP + LOGPROB_FLOOR
    table[0] = MISSING
    return table.astype(np.float32)


_TABLE: Final = _table()


def encode(
    message: Any, *, compress: bool = False, quantised: frozenset[str] = frozenset()
) -> bytes:
    """Renders `message` as a frame.

    Args:
        message: JSON values, with numpy arrays of bool, int32, int64 or float32 anywhere inside.
        compress: zstd for the body; taken only when it is smaller.
        quantised: Names of keys whose float32 arrays go as `q2` where that loses nothing, which is
            where their values were rounded before (`quantise`).

    Raises:
        ValueError: an array holds NaN or infinity, or has another element type.
    """
    arrays: list[tuple[str, np.ndarray]] = []
    header = json.dumps(
        {
            "message": _strip(message, "", arrays, quantised),
            "arrays": [_describe(a) for a in arrays],
        },
        separators=(",", ":"),
        allow_nan=False,
    ).encode()
    body = b"".join(np.ascontiguousarray(array).tobytes() for _, array in arrays)
    length, encoding = len(body), 0
    if compress and length:
        packed = zstandard.ZstdCompressor(level=1).compress(body)
        if len(packed) < length:
            body, encoding = packed, 1
    return _PREFIX.pack(MAGIC, encoding, len(header), length) + header + body


def _describe(array: tuple[str, np.ndarray]) -> list[Any]:
    return [array[0], list(array[1].shape)]


def _strip(
    value: Any, key: str, arrays: list[tuple[str, np.ndarray]], quantised: frozenset[str]
) -> Any:
    if isinstance(value, np.ndarray):
        arrays.append(_wire(cast("np.ndarray", value), key, quantised))
        return {"$array": len(arrays) - 1}
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {k: _strip(v, k, arrays, quantised) for k, v in items}
    if isinstance(value, (list, tuple)):
        return [_strip(v, key, arrays, quantised) for v in cast("list[Any]", value)]
    return value


def _wire(array: np.ndarray, key: str, quantised: frozenset[str]) -> tuple[str, np.ndarray]:
    kind = array.dtype.kind
    tag = _TAGS.get("b" if kind == "b" else f"{kind}{array.dtype.itemsize}")
    if tag is None:
        raise ValueError(
            f"{key}: arrays of {array.dtype} do not travel; use bool, int32, int64 or float32"
        )
    if tag == "f4":
        if not np.isfinite(array).all():
            raise ValueError(f"{key}: NaN or infinity is never encoded; mask the position instead")
        if key in quantised:
            codes = _codes(array)
            if np.array_equal(_TABLE[codes], array):
                return "q2", codes
    return tag, array.astype(_DTYPES[tag], copy=False)


def decode(data: bytes | memoryview, *, limits: Limits = DEFAULT_LIMITS) -> Any:
    """Reads a frame back into JSON values and numpy arrays.

    Arrays are read-only views into `data` where its bytes allow it.

    Raises:
        MalformedFrame: anything is off: magic, lengths, an unknown element type, a reference that
            does not exist, a bool that is neither 0 nor 1, a non-finite float, or a size over
            `limits`.
    """
    view = memoryview(data)
    if len(view) < _PREFIX.size:
        raise MalformedFrame(f"{len(view)} bytes are too few for a frame", field="frame")
    magic, encoding, header_len, body_len = _PREFIX.unpack_from(view)
    if magic != MAGIC or encoding not in (0, 1) or any(view[5:8]):
        raise MalformedFrame("magic or body encoding is not ours", field="frame.magic")
    if header_len > limits.header_bytes or body_len > limits.body_bytes:
        raise MalformedFrame(
            f"header of {header_len} or body of {body_len} bytes is over the limit",
            field="frame.length",
        )
    header, rest = view[_PREFIX.size : _PREFIX.size + header_len], view[_PREFIX.size + header_len :]
    message, specs = _parse_header(bytes(header), header_len, limits)
    shapes = [_parse_spec(spec) for spec in specs]
    expected = sum(_DTYPES[tag].itemsize * math.prod(shape) for tag, shape in shapes)
    if expected != body_len:
        raise MalformedFrame(
            f"arrays need {expected} bytes, the body has {body_len}", field="frame.arrays"
        )
    body = _body(rest, encoding, body_len)
    arrays: list[np.ndarray] = []
    offset = 0
    for tag, shape in shapes:
        arrays.append(_array(body, offset, tag, shape))
        offset += _DTYPES[tag].itemsize * math.prod(shape)
    return _fill(message, arrays, limits.depth)


def _parse_header(header: bytes, length: int, limits: Limits) -> tuple[Any, list[Any]]:
    if len(header) != length:
        raise MalformedFrame("the header is cut off", field="frame.header")
    try:
        parsed = json.loads(header, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedFrame(f"the header is not JSON: {error}", field="frame.header") from None
    if not isinstance(parsed, dict) or set(cast("dict[str, Any]", parsed)) != {"message", "arrays"}:
        raise MalformedFrame("the header needs `message` and `arrays`", field="frame.header")
    fields = cast("dict[str, Any]", parsed)
    specs = fields["arrays"]
    if not isinstance(specs, list) or len(cast("list[Any]", specs)) > limits.arrays:
        raise MalformedFrame("`arrays` must be a list within the limit", field="frame.arrays")
    return fields["message"], cast("list[Any]", specs)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _parse_spec(spec: Any) -> tuple[str, tuple[int, ...]]:
    match spec:
        case [str(tag), [*shape]] if tag in _DTYPES and len(shape) <= 4:
            if all(type(n) is int and 0 <= n < 1 << 40 for n in shape):
                return tag, tuple(shape)
        case _:
            pass
    raise MalformedFrame(f"{spec!r:.80} does not describe an array", field="frame.arrays")


def _body(rest: memoryview, encoding: int, length: int) -> memoryview:
    if encoding == 0:
        if len(rest) != length:
            raise MalformedFrame(
                f"the body has {len(rest)} bytes instead of {length}", field="frame.body"
            )
        return rest
    try:
        # The zstd frame states its own size; a larger one would be allocated before it is refused.
        if zstandard.get_frame_parameters(rest).content_size != length:
            raise MalformedFrame("the compressed body has another size", field="frame.body")
        body = zstandard.ZstdDecompressor().decompress(rest, max_output_size=length)
    except zstandard.ZstdError as error:
        raise MalformedFrame(f"the body is not zstd: {error}", field="frame.body") from None
    if len(body) != length:
        raise MalformedFrame("the body is cut off", field="frame.body")
    return memoryview(body)


def _array(body: memoryview, offset: int, tag: str, shape: tuple[int, ...]) -> np.ndarray:
    raw = np.frombuffer(body, _DTYPES[tag], math.prod(shape), offset)
    array: np.ndarray = raw.reshape(shape)
    if tag == "q2":
        return _TABLE[array]
    if tag == "b1":
        if array.size and int(array.max()) > 1:
            raise MalformedFrame("a bool is neither 0 nor 1", field="frame.body")
        return array.view(np.bool_)
    if tag == "f4" and not np.isfinite(array).all():
        raise MalformedFrame("NaN or infinity in an array", field="frame.body")
    return array


def _fill(value: Any, arrays: list[np.ndarray], depth: int) -> Any:
    if depth == 0:
        raise MalformedFrame("the message is nested too deeply", field="frame.header")
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        if "$array" in fields:
            index = fields["$array"]
            if len(fields) != 1 or type(index) is not int or not 0 <= index < len(arrays):
                raise MalformedFrame(f"no array {index!r:.40}", field="frame.header")
            return arrays[index]
        return {k: _fill(v, arrays, depth - 1) for k, v in fields.items()}
    if isinstance(value, list):
        return [_fill(v, arrays, depth - 1) for v in cast("list[Any]", value)]
    return value
