"""Tasks of whole programs: what an executor runs and compares, in the payload of a feedback query.

    {"mode": "stdin", "language": "python", "time_limit_s": 6, "memory_mb": 1024,
     "shown":  [{"input": "1 2\\n", "expected": "3\\n"}],
     "hidden": [{"input": "4 5\\n", "expected": "9\\n"}]}

    {"mode": "function", "entry": "add",
     "shown": [{"input": [1, 2], "expected": 3}]}

In mode `stdin` the program reads the input and writes the expected output. In mode `function` it
defines `entry`, or a class `Solution` with that method, which is called with the arguments. The
program is the last fenced block of the response.

Of `shown` cases the feedback may tell everything; of `hidden` ones only that one failed, and how.
Many or long cases may be packed: base64 of zlib of the JSON of their list.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from preceptor_clients.contract.json_text import read_json

ProgramMode = Literal["stdin", "function"]
MODES: Final = ("stdin", "function")
MOST_BYTES: Final = 256 << 20
"""Bytes of unpacked cases."""
_PACKED_FROM: Final = 16 << 10


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProgramCase(_Wire):
    """One input with what a right program gives for it."""

    input: JsonValue
    """Text on standard input, or the list of arguments."""
    expected: JsonValue
    """Text on standard output, or the value that is returned."""


def packed_cases(cases: Iterable[ProgramCase]) -> JsonValue:
    """Cases for a payload: as they are, or packed where they are long."""
    listed: list[JsonValue] = [case.model_dump() for case in cases]
    text = json.dumps(listed, ensure_ascii=False).encode()
    if len(text) <= _PACKED_FROM:
        return listed
    return base64.b64encode(zlib.compress(text)).decode()


def _unpacked(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    try:
        inflater = zlib.decompressobj()
        text = inflater.decompress(base64.b64decode(given, validate=True), MOST_BYTES)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"is not packed as base64 of zlib: {error}") from None
    if not inflater.eof:
        raise ValueError(f"is cut off, or has more than {MOST_BYTES} bytes when unpacked")
    return read_json(text)


Cases = Annotated[tuple[ProgramCase, ...], BeforeValidator(_unpacked)]


class ProgramTask(_Wire):
    """The payload of a task of whole programs."""

    mode: ProgramMode
    """How a case is given to the program, and its answer taken."""
    language: str = "python"
    """A language of the executor's settings."""
    entry: str | None = None
    """Name of the function, in mode `function`."""
    shown: Cases = ()
    """Cases that the feedback may tell."""
    hidden: Cases = ()
    """Cases that it may not."""
    time_limit_s: Annotated[float, Field(gt=0, le=600)] | None = None
    """Processor time of each case; the executor's own where absent, which it may not exceed."""
    memory_mb: Annotated[int, Field(ge=64)] | None = None
    """Memory of each case; the executor's own where absent, which it may not exceed."""
    record_chars: Annotated[int, Field(ge=1, le=1 << 16)] = 200
    """Most characters of each text in the item's details, such as what a shown case printed."""

    @model_validator(mode="after")
    def _cases_fit_the_mode(self) -> Self:
        if self.mode == "function" and not (self.entry or "").isidentifier():
            raise ValueError(f"entry: must be the name of the function, got {self.entry!r}")
        for name, cases in (("shown", self.shown), ("hidden", self.hidden)):
            for i, case in enumerate(cases):
                _check_case(self.mode, case, f"{name}[{i}]")
        return self


def is_program_task(payload: Mapping[str, Any]) -> bool:
    """Whether a payload is of this kind, and not an expression."""
    return payload.get("mode") in MODES


def _check_case(mode: ProgramMode, case: ProgramCase, where: str) -> None:
    if mode == "function":
        if not isinstance(case.input, list):
            raise ValueError(f"{where}.input: must be the list of arguments")
    elif not (isinstance(case.input, str) and isinstance(case.expected, str)):
        raise ValueError(f"{where}: input and expected must be texts in mode stdin")
