"""The frame gives back what went in, and refuses everything else without allocating for it."""

import contextlib
import json
import struct
import tracemalloc
from collections import Counter
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import BaseModel

from preceptor_clients.contract import frame, grid
from preceptor_clients.contract.arrays import MISSING
from preceptor_clients.contract.errors import MalformedFrame
from preceptor_clients.contract.wire import QUANTISED

FINITE = {"allow_nan": False, "allow_infinity": False}
arrays = st.sampled_from(["b1", "i4", "i8", "f4"]).flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
        elements=FINITE if dtype == "f4" else None,
    )
)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
keys = st.one_of(text, st.sampled_from(["$array", "$$array", "$", "message", "arrays"]))
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(**FINITE), text, arrays
)
messages = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=12,
)


def assert_same(left: Any, right: Any) -> None:
    assert type(left) is type(right)
    if isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right, strict=True)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list):
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    else:
        assert left == right


def build(header: bytes | dict[str, Any], body: bytes = b"", **prefix: Any) -> bytes:
    """A frame by hand, with whatever lies the test wants."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    raw += b" " * (-(20 + len(raw)) % 8)
    magic, encoding = prefix.get("magic", b"PCF1"), prefix.get("encoding", 0)
    lengths = prefix.get("header_len", len(raw)), prefix.get("body_len", len(body))
    return struct.pack("<4sB3xIQ", magic, encoding, *lengths) + raw + body


def one(spec: Any, message: Any = None) -> dict[str, Any]:
    return {"message": {"$array": 0} if message is None else message, "arrays": [spec]}


def bomb(num_bytes: int) -> bytes:
    return zstandard.ZstdCompressor().compress(bytes(num_bytes))


@given(messages, st.booleans())
def test_what_is_encoded_comes_back(message: Any, compress: bool):
    assert_same(frame.decode(frame.encode(message, compress=compress)), message)


class Inner(BaseModel):
    number: int | None = None


class Outer(BaseModel):
    free: dict[str, Any]
    inner: tuple[Inner, ...]
    absent: str | None = None


def test_a_message_travels_without_the_fields_that_it_leaves_out():
    message = Outer(free={"a": None, "b": [None, Inner()]}, inner=(Inner(), Inner(number=1)))

    assert frame.encode(message) == frame.encode(message.model_dump(exclude_none=True))
    assert frame.decode(frame.encode(message)) == {
        "free": {"a": None, "b": [None, {}]},
        "inner": [{}, {"number": 1}],
    }


@given(st.dictionaries(st.sampled_from(["logprobs_PK", "x"]), messages), st.booleans())
def test_unread_arrays_give_the_same_frame_as_read_ones(message: Any, compress: bool):
    data = frame.encode(message, compress=compress, quantised=QUANTISED)

    passed_on = frame.decode(data, unread=True)

    for quantised in (QUANTISED, frozenset[str]()):
        as_read = frame.encode(frame.decode(data), quantised=quantised)
        assert frame.encode(passed_on, quantised=quantised) == as_read


@given(
    hnp.arrays("f4", hnp.array_shapes(max_dims=2, min_side=0), elements=st.floats(-40, 0, width=32))
)
def test_grid_values_travel_as_two_bytes_and_others_as_four_and_none_change(values: np.ndarray):
    rounded = grid.quantise(values)
    rounded.reshape(-1)[::3] = MISSING

    for array in (values, rounded):
        data = frame.encode({"x": array}, quantised=frozenset({"x"}))
        np.testing.assert_array_equal(frame.decode(data)["x"], array)

    assert b'["q2"' in frame.encode({"x": rounded}, quantised=frozenset({"x"}))


def test_every_code_of_the_grid_has_its_own_value():
    codes = np.arange(65536, dtype=np.uint16)

    np.testing.assert_array_equal(grid.codes(grid.values(codes)), codes)
    assert grid.values(codes)[[0, 1, 65535]].tolist() == [MISSING, -32.0, 0.0]


def test_rounding_moves_a_logprob_by_at_most_half_a_step():
    values = -np.random.default_rng(0).uniform(0, 32, 10_000)

    assert np.abs(grid.quantise(values) - values).max() <= grid.LOGPROB_STEP / 2 + 4e-6


def test_arrays_start_on_multiples_of_eight():
    data = frame.encode({"a": np.ones(3, np.bool_), "b": np.arange(3, dtype=np.int64)})

    decoded = frame.decode(data)

    assert decoded["b"].flags.aligned
    assert not decoded["b"].flags.writeable


@pytest.mark.parametrize(
    "array",
    [
        np.array([np.nan], np.float32),
        np.array([np.inf], np.float32),
        np.array([1.0]),
        np.array(["a"]),
        np.array([None]),
    ],
)
def test_what_may_not_travel_is_refused_by_name(array: np.ndarray):
    with pytest.raises(ValueError, match="field"):
        frame.encode({"field": array})


def test_big_endian_arrays_are_turned_round():
    data = frame.encode({"x": np.array([1, 2], ">i4")})

    assert frame.decode(data)["x"].tolist() == [1, 2]


def test_nan_and_half_surrogates_in_the_message_are_refused():
    for value in (float("nan"), float("inf"), "\ud800"):
        with pytest.raises(ValueError, match=r"is not finite|surrogates not allowed"):
            frame.encode({"field": value})


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, 3j, np.float32(1), Path("here"), object()])
def test_a_value_that_json_does_not_have_is_refused(value: object):
    # The writer of the header would render some of these as texts.
    with pytest.raises(TypeError, match="field: a value of"):
        frame.encode({"field": value})


def test_values_of_derived_types_travel_as_those_of_their_base():
    class Pair(NamedTuple):
        text: str
        number: float

    data = frame.encode(
        {"a": Pair("x", np.float64(1e-7)), "b": Counter("yyy"), "c": IntEnum("E", "A")(1)}
    )

    assert frame.decode(data) == {"a": ["x", 1e-7], "b": {"y": 3}, "c": 1}


def test_of_several_short_arrays_the_one_with_nan_is_named():
    rows = {"good": np.zeros(3, np.float32), "bad": np.array([0, np.nan], np.float32)}

    with pytest.raises(ValueError, match="bad: NaN or infinity"):
        frame.encode(rows)


HOSTILE = {
    "empty": b"",
    "prefix_only": b"PCF1",
    "other_magic": build(one(["i4", [0]]), magic=b"PCF2"),
    "other_encoding": build(one(["i4", [0]]), encoding=2),
    "huge_header_length": build(one(["i4", [0]]), header_len=2**32 - 4),
    "huge_body_length": build(one(["i4", [0]]), body_len=2**62),
    "body_length_of_a_terabyte": build(one(["i4", [2**38]]), body_len=2**40),
    "body_within_limits_but_absent": build(one(["b1", [2**28]]), body_len=2**28),
    "huge_shape": build(one(["i4", [2**39, 2**39, 2**39, 2**39]])),
    "huge_empty_shape": build(one(["i4", [2**31, 2**31, 2**31, 0]])),
    "negative_shape": build(one(["i4", [-1]])),
    "shape_of_floats": build(one(["i4", [1.0]]), bytes(8)),
    "shape_of_bools": build(one(["i4", [True]]), bytes(8)),
    "five_dimensions": build(one(["i4", [1, 1, 1, 1, 1]]), bytes(8)),
    "unknown_type": build(one(["f8", [1]]), bytes(8)),
    "object_type": build(one(["O", [1]]), bytes(8)),
    "spec_is_no_list": build({"message": 1, "arrays": [{"i4": [1]}]}),
    "arrays_is_no_list": build({"message": 1, "arrays": {}}),
    "extra_header_member": build({"message": 1, "arrays": [], "x": 1}),
    "no_message": build({"arrays": []}),
    "header_is_a_list": build(b"[]"),
    "header_is_no_json": build(b"{"),
    "header_is_no_utf8": build(b'{"message":"\xff","arrays":[]}'),
    "nan_in_the_header": build(b'{"message":NaN,"arrays":[]}'),
    "infinity_in_the_header": build(b'{"message":-Infinity,"arrays":[]}'),
    "1e999_in_the_header": build(b'{"message":{"a":[1e999]},"arrays":[]}'),
    "integer_of_70000_digits": build(b'{"message":1' + b"0" * 70000 + b',"arrays":[]}'),
    "half_surrogate": build(b'{"message":"\\ud800","arrays":[]}'),
    "nested_100": build(b'{"message":' + b"[" * 100 + b"]" * 100 + b',"arrays":[]}'),
    "nested_100_000": build(b'{"message":' + b"[" * 100_000 + b"]" * 100_000 + b',"arrays":[]}'),
    "reference_beyond": build({"message": {"$array": 1}, "arrays": [["i4", [0]]]}),
    "reference_below": build({"message": {"$array": -1}, "arrays": [["i4", [0]]]}),
    "reference_by_bool": build({"message": {"$array": False}, "arrays": [["i4", [0]]]}),
    "reference_by_text": build({"message": {"$array": "0"}, "arrays": [["i4", [0]]]}),
    "reference_with_company": build(one(["i4", [0]], {"$array": 0, "x": 1})),
    "reference_twice": build(one(["i4", [0]], [{"$array": 0}, {"$array": 0}])),
    "array_without_reference": build(one(["i4", [0]], [1])),
    "reserved_key": build({"message": {"$other": 0}, "arrays": []}),
    "bool_of_7": build(one(["b1", [2]]), b"\x01\x07" + bytes(6)),
    "nan_in_an_array": build(one(["f4", [2]]), np.array([0, np.nan], "<f4").tobytes()),
    "infinity_in_an_array": build(one(["f4", [2]]), np.array([0, np.inf], "<f4").tobytes()),
    "padding_not_zero": build(one(["b1", [1]]), b"\x01" + b"x" * 7),
    "body_too_long": build(one(["i4", [2]]), bytes(16)),
    "trailing_bytes": build(one(["i4", [2]]), bytes(16), body_len=8),
    "body_too_short": build(one(["i4", [4]]), bytes(8), body_len=16),
    "not_zstd": build(one(["i4", [2]]), b"12345678", encoding=1),
    "zstd_states_more": build(one(["b1", [8]]), bomb(1 << 24), encoding=1, body_len=8),
    "zstd_bomb": build(one(["b1", [1 << 28]]), bomb(1 << 28), encoding=1, body_len=1 << 28),
    "zstd_cut_off": build(one(["b1", [800]]), bomb(800)[:-3], encoding=1, body_len=800),
    "zstd_with_a_tail": build(one(["b1", [8]]), bomb(8) + b"xx", encoding=1, body_len=8),
    "zstd_without_its_size": build(
        one(["b1", [8]]),
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(8)),
        encoding=1,
        body_len=8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_frame_is_refused_without_allocating_for_it(data: bytes):
    tracemalloc.start()
    try:
        with pytest.raises(MalformedFrame) as refused:
            frame.decode(data)
        with pytest.raises(MalformedFrame):
            frame.decode(data, unread=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 4 << 20
    assert refused.value.errors[0].field.startswith("frame.")


EXAMPLE = {
    "ids": np.arange(6, dtype=np.int32).reshape(2, 3),
    "mask": np.array([True, False]),
    "n": 1,
}


@given(st.data())
def test_a_truncated_frame_is_refused(data: st.DataObject):
    whole = frame.encode(EXAMPLE, compress=data.draw(st.booleans()))
    cut = data.draw(st.integers(0, len(whole) - 1))

    with pytest.raises(MalformedFrame):
        frame.decode(whole[:cut])


@given(st.data())
def test_a_mutated_frame_decodes_or_is_refused_and_nothing_else(data: st.DataObject):
    mutated = bytearray(frame.encode(EXAMPLE, compress=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))

    with contextlib.suppress(MalformedFrame):
        frame.decode(bytes(mutated))


@given(st.binary(max_size=200))
def test_noise_after_our_magic_is_refused(noise: bytes):
    with pytest.raises(MalformedFrame):
        frame.decode(b"PCF1" + noise)


def test_own_limits_hold():
    data = frame.encode({"x": np.zeros(100, np.int32), "y": np.zeros(1, np.int32)})

    frame.decode(data)
    for limits in (
        frame.Limits(header_bytes=8),
        frame.Limits(body_bytes=64),
        frame.Limits(arrays=1),
        frame.Limits(depth=1),
    ):
        with pytest.raises(MalformedFrame):
            frame.decode(data, limits=limits)
