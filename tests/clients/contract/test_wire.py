"""Messages and bytes: what is negotiated, what is missing, what no array may hold."""

import json
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from preceptor_clients.contract import frame, schemas, wire
from preceptor_clients.contract.arrays import MISSING, ArrayTree, Bools1, Floats1, Floats2, Ints1
from preceptor_clients.contract.errors import (
    AnswerRefused,
    Invalid,
    MalformedFrame,
    NotFound,
    PreceptorError,
    ProblemDetails,
    ServiceFailed,
    StaleFence,
    UnsupportedMediaType,
    VocabularyMismatch,
    from_problem,
)
from preceptor_clients.contract.schemas import FeedbackItem, PrefixAnswer, PrefixQuery


class Arrays(BaseModel):
    model_config = {"arbitrary_types_allowed": True}

    ints: Ints1 = np.zeros(0, np.int32)
    bools: Bools1 = np.zeros(0, np.bool_)
    floats: Floats1 = np.zeros(0, np.float32)
    table: Floats2 = np.zeros((0, 0), np.float32)
    tree: ArrayTree = {}


def read(text: str) -> Arrays:
    return wire.parse(Arrays, text.encode(), wire.JSON)


@pytest.mark.parametrize(
    ("accept", "rendering"),
    [
        (None, (wire.JSON, False, False)),
        ("*/*", (wire.JSON, False, False)),
        ("application/json", (wire.JSON, False, False)),
        (wire.FRAME, (wire.FRAME, False, False)),
        (f"{wire.JSON}, {wire.FRAME.upper()} ; LOGPROBS=f32", (wire.FRAME, True, False)),
        (f"{wire.FRAME};body=zstd;logprobs=f32", (wire.FRAME, True, True)),
        (f"{wire.FRAME}x", (wire.JSON, False, False)),
    ],
)
def test_the_frame_is_sent_where_accept_names_it(accept, rendering):
    assert wire.accepted(accept) == rendering


def test_a_body_without_a_type_is_json_and_a_foreign_type_is_refused():
    assert wire.parse(Arrays, b'{"ints": [1]}', None).ints.tolist() == [1]
    assert wire.parse(Arrays, b"{}", "application/json; charset=utf-8").ints.tolist() == []
    with pytest.raises(UnsupportedMediaType):
        wire.parse(Arrays, b"{}", "text/plain")


def test_missing_numbers_are_null_in_json_and_masked_in_both(make_query, make_answer):
    query = make_query()
    answer: PrefixAnswer = make_answer(query)
    hidden = answer.model_copy(
        update={
            "own_mask_P": np.zeros_like(answer.own_mask_P),
            "own_logprobs_P": np.full_like(answer.own_logprobs_P, MISSING),
        }
    )

    text = wire.render(hidden, wire.JSON)

    assert json.loads(text)["own_logprobs_P"] == [None] * 5
    for media_type in (wire.JSON, wire.FRAME):
        again = wire.parse(PrefixAnswer, wire.render(hidden, media_type), media_type)
        np.testing.assert_array_equal(again.own_logprobs_P, hidden.own_logprobs_P)
        np.testing.assert_array_equal(again.logprobs_PK, hidden.logprobs_PK)


@given(
    st.lists(st.integers(-(2**31), 2**31 - 1)),
    st.lists(st.booleans()),
    st.lists(st.none() | st.floats(-1e8, 1e8, width=32)),
)
def test_arrays_survive_json(ints, bools, floats):
    message = read(json.dumps({"ints": ints, "bools": bools, "floats": floats}))

    again = read(wire.render(message, wire.JSON).decode())

    assert again.ints.tolist() == ints
    assert again.bools.tolist() == bools
    assert again.floats.tolist() == [MISSING if x is None else x for x in floats]
    assert (again.ints.dtype, again.floats.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize(
    "sent", [{"ints": np.zeros(1, np.float32)}, {"floats": np.zeros((1, 1), np.float32)}]
)
def test_an_unread_array_of_another_type_is_refused(sent):
    (field,) = sent

    with pytest.raises(Invalid) as refused:
        wire.parse(Arrays, frame.encode(sent), wire.FRAME, unread=True)

    assert refused.value.errors[0].field == field


@pytest.mark.parametrize(
    "text",
    [
        '{"ints": [2147483648]}',
        '{"ints": [1.0]}',
        '{"ints": [true]}',
        '{"ints": ["1"]}',
        '{"ints": [[1]]}',
        '{"ints": [null]}',
        '{"ints": {"0": 1}}',
        '{"ints": 1}',
        '{"bools": [1]}',
        '{"floats": ["1.5"]}',
        '{"floats": [true]}',
        '{"floats": [true, null]}',
        '{"floats": [1e999]}',
        '{"floats": [1e39]}',
        '{"table": [1, 2]}',
        '{"table": [[1], [1, 2]]}',
        '{"tree": {"a": {"$array": {"type": "f8", "shape": [1], "values": [1]}}}}',
        '{"tree": {"a": {"$array": {"type": "f4", "shape": [3], "values": [1]}}}}',
    ],
)
def test_what_is_no_array_of_that_type_is_refused_by_name(text):
    with pytest.raises(Invalid) as refused:
        read(text)

    assert refused.value.errors[0].field == next(iter(json.loads(text.replace("1e999", "0"))))


@pytest.mark.parametrize(
    "array", [np.array([2**40]), np.array([1.5]), np.array([1], np.uint8), np.array([[1]])]
)
def test_an_array_is_never_wrapped_around_or_converted(array):
    with pytest.raises(ValueError, match="ints"):
        Arrays(ints=array)


@pytest.mark.parametrize("text", ["", "{", '{"floats": [NaN]}', '{"floats": [Infinity]}', "\xff"])
def test_what_is_no_json_is_malformed(text):
    with pytest.raises(MalformedFrame):
        wire.parse(Arrays, text.encode("latin-1"), wire.JSON)


@pytest.mark.parametrize("number", ["1e999", "-1e999"])
def test_infinity_does_not_come_in_through_free_json(number):
    item = '{"id":"a","kind":"comment","source":"s","version":"1","details":{"x":%s}}'

    with pytest.raises(Invalid):
        wire.parse(FeedbackItem, (item % number).encode(), wire.JSON)


def test_trees_of_arrays_survive_json():
    tree = {
        "a": [{"x": np.array([[1, 2]], np.int64)}, None, 1.5],
        "b": np.array([MISSING, -1.0], np.float32),
        "c": np.zeros((2, 0), np.bool_),
    }

    again = read(wire.render(Arrays(tree=tree), wire.JSON).decode()).tree

    np.testing.assert_array_equal(again["a"][0]["x"], tree["a"][0]["x"], strict=True)
    np.testing.assert_array_equal(again["b"], tree["b"], strict=True)
    np.testing.assert_array_equal(again["c"], tree["c"], strict=True)
    assert again["a"][1:] == [None, 1.5]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"response_ids": []}, "response_ids: is empty"),
        ({"response_ids": [-1]}, "negative id"),
        ({"owned": [True]}, "owned: has 1 entries for 5"),
        ({"positions": []}, "positions: is empty"),
        ({"positions": [[2, 2]]}, "positions"),
        ({"positions": [[0, 3], [2, 4]]}, "positions"),
        ({"positions": [[0, 6]]}, "positions"),
        ({"candidate_ids": [[1]]}, "candidate_ids: has 1 rows for 5"),
        ({"prompt": {}}, "messages or ids"),
        ({"vocab_fingerprint": "x"}, "vocab_fingerprint"),
        ({"top_k": 0}, "top_k"),
        ({"weights": {"mode": "latest", "version": "p/l/1"}}, "`latest` needs"),
        ({"weights": {"mode": "exact", "version": "p/l"}}, "weights.version"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_query_that_cannot_be_meant_is_refused_with_its_field(change, reason, make_query):
    fields = json.loads(wire.render(make_query(), wire.JSON)) | change

    with pytest.raises(Invalid, match=reason):
        wire.parse(PrefixQuery, json.dumps(fields).encode(), wire.JSON)


def test_an_answer_from_a_newer_service_is_read(make_query, make_answer):
    fields = json.loads(wire.render(make_answer(make_query()), wire.JSON)) | {"newer": 1}

    assert wire.parse(PrefixAnswer, json.dumps(fields).encode(), wire.JSON).expert == "e"


def is_message(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, BaseModel)


@pytest.mark.parametrize("cls", list(filter(is_message, vars(schemas).values())))
def test_what_may_be_absent_has_a_default(cls):
    """Absent values are left out of both renderings; a required one could not be read back."""
    for name, field in cls.model_fields.items():
        nullable = field.annotation is not None and type(None) in get_args(field.annotation)
        assert not (nullable and field.is_required()), name


def errors() -> list[type[PreceptorError]]:
    found, todo = [], [PreceptorError]
    while todo:
        cls = todo.pop()
        found.append(cls)
        todo += cls.__subclasses__()
    return found


@pytest.mark.parametrize("cls", errors(), ids=lambda c: c.__name__)
def test_every_error_survives_its_problem(cls):
    error = cls("mass", "is 2") if cls is AnswerRefused else cls("why", field="x", retry_after_s=2)

    again = from_problem(error.problem())

    assert type(again) is cls
    assert again.problem() == error.problem().model_copy(
        update={"retry_after_s": again.retry_after_s}
    )


def test_no_two_errors_share_a_code():
    codes = [cls.code for cls in errors()]

    assert len(set(codes)) == len(codes)


def test_a_foreign_problem_is_read_by_its_status():
    assert type(from_problem(ProblemDetails(status=404))) is NotFound
    assert type(from_problem(ProblemDetails(status=409))) not in (VocabularyMismatch, StaleFence)
    assert type(from_problem(ProblemDetails(status=502))) is ServiceFailed
    assert type(from_problem(ProblemDetails(status=418, detail="tea"))) is ServiceFailed
    assert type(from_problem(ProblemDetails())) is PreceptorError
