"""The committed test vectors: both renderings decode, and encode to the same bytes."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel

from preceptor_clients.contract import checks, frame, listings, schemas, wire
from preceptor_clients.contract.errors import FieldError, MalformedFrame, ProblemDetails

HERE = Path(__file__).parent


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_vectors", HERE / "make_vectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generator = _generator()
MESSAGES: dict[str, BaseModel] = generator.messages()


def vector(name: str, media_type: str) -> bytes:
    return (
        (HERE / "vectors" / name)
        .with_suffix(".json" if media_type == wire.JSON else ".frame")
        .read_bytes()
    )


@pytest.mark.parametrize("name", MESSAGES)
def test_each_rendering_reads_and_writes_both(name):
    cls = type(MESSAGES[name])

    for media_type in (wire.JSON, wire.FRAME):
        read = wire.parse(cls, vector(name, media_type), media_type)
        for other in (wire.JSON, wire.FRAME):
            assert wire.render(read, other) == vector(name, other)


def test_the_generator_still_writes_the_committed_bytes():
    for name, message in MESSAGES.items():
        assert wire.render(message, wire.FRAME) == vector(name, wire.FRAME), name
        assert wire.render(message, wire.JSON) == vector(name, wire.JSON), name


def test_a_compressed_frame_says_the_same():
    message = MESSAGES["records"]

    again = wire.parse(type(message), wire.render(message, compress=True), wire.FRAME)

    assert wire.render(again) == vector("records", wire.FRAME)


def _inside(value: object) -> Iterator[BaseModel]:
    if isinstance(value, BaseModel):
        yield value
        for name in type(value).model_fields:
            yield from _inside(getattr(value, name))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _inside(item)


def test_no_message_of_the_contract_is_without_a_vector():
    declared = {
        cls
        for cls in (*vars(schemas).values(), *vars(listings).values())
        if isinstance(cls, type) and issubclass(cls, (schemas.Request, schemas.Answer))
    } - {schemas.Request, schemas.Answer}

    shown = {type(part) for message in MESSAGES.values() for part in _inside(message)}

    assert declared == shown - {ProblemDetails, FieldError}


def test_the_answers_among_the_vectors_pass_the_check_at_the_door():
    query = MESSAGES["logprobs_call"].queries[1]
    capabilities = MESSAGES["info"].capabilities

    for name in ("answer_exact", "answer_masked"):
        checks.check_answer(query, MESSAGES[name], capabilities)
    checks.check_answer(query, MESSAGES["logprobs_reply"].results[0].answer, capabilities)


REJECTED: dict[str, str] = json.loads((HERE / "vectors" / "rejected.json").read_text())


@pytest.mark.parametrize("name", REJECTED)
def test_a_frame_that_must_be_refused_is_refused(name):
    with pytest.raises(MalformedFrame):
        frame.decode(bytes.fromhex(REJECTED[name]))


def test_the_list_of_refused_frames_is_the_generators():
    assert {name: data.hex() for name, data in generator.rejected().items()} == REJECTED
