"""A decoder written from docs/reference/wire-format.md alone reads every vector as its JSON says.

The decoder uses the standard library only, no code of ours: what it knows is what the page says.
"""

import json
import pkgutil
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from preceptor_clients.cli import expert
from preceptor_clients.contract import listings
from preceptor_clients.contract.checks import MEND_VOCABULARY
from preceptor_clients.contract.errors import PreceptorError
from preceptor_clients.contract.schemas import Answer

VECTORS = Path(__file__).parent / "vectors"
NAMES = sorted(path.stem for path in VECTORS.glob("*.frame"))
CODES = {"b1": "?", "i4": "i", "i8": "q", "f4": "f", "q2": "H"}


def read_frame(data: bytes) -> Any:
    magic, coding, header_len, body_len = struct.unpack_from("<4sB3xIQ", data)
    assert (magic, coding) == (b"PCF1", 0)
    start = 20 + header_len
    assert start % 8 == 0
    assert len(data) == start + body_len
    header = json.loads(data[20:start])
    arrays = []
    for kind, shape in header["arrays"]:
        count = 1
        for side in shape:
            count *= side
        layout = f"<{count}{CODES[kind]}"
        cells = [cell_of(kind, raw) for raw in struct.unpack_from(layout, data, start)]
        arrays.append(nested(cells, shape))
        start += -(-struct.calcsize(layout) // 8) * 8
    assert start == len(data)
    return filled(header["message"], arrays)


def cell_of(kind: str, raw: Any) -> Any:
    if kind == "q2":
        value = None if raw == 0 else -32 + (raw - 1) * 32 / 65534
        return value if value is None else struct.unpack("<f", struct.pack("<f", value))[0]
    return None if kind == "f4" and raw == -1e9 else raw


def nested(cells: list[Any], shape: list[int]) -> list[Any]:
    if len(shape) == 1:
        return cells
    step = len(cells) // shape[0] if shape[0] else 0
    return [nested(cells[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def filled(value: Any, arrays: list[Any]) -> Any:
    if isinstance(value, list):
        return [filled(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"$array"}:
        return arrays[value["$array"]]
    return {k[1:] if k.startswith("$") else k: filled(v, arrays) for k, v in value.items()}


def untyped(value: Any) -> Any:
    """The one message whose JSON names the types of its arrays, as plain lists."""
    if isinstance(value, list):
        return [untyped(item) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"$array": {"shape": shape, "values": values}}:
            return nested(values, shape)
        case _:
            return {k: untyped(v) for k, v in value.items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_page_is_enough_to_read_a_frame(name):
    spoken = json.loads((VECTORS / f"{name}.json").read_text())

    assert read_frame((VECTORS / f"{name}.frame").read_bytes()) == untyped(spoken)


def test_the_page_lists_every_code_of_the_error_tree_with_its_status() -> None:
    page = (VECTORS.parents[2] / "docs" / "reference" / "wire-format.md").read_text()

    listed = set(re.findall(r"^\| (\d{3}) \| `([a-z-]+)` \|", page, re.MULTILINE))

    assert listed == {
        (str(cls.status), cls.code) for cls in (PreceptorError, *tree(PreceptorError))
    }


def test_the_page_names_every_message_that_lists_records() -> None:
    page = (VECTORS.parents[2] / "docs" / "reference" / "wire-format.md").read_text()
    declared = {
        cls.__name__
        for cls in vars(listings).values()
        if isinstance(cls, type) and issubclass(cls, Answer) and cls is not Answer
    }

    assert {name for name in declared if f"`{name}`" not in page} == set()


def tree(root: type[PreceptorError]) -> list[type[PreceptorError]]:
    """Every class of the contract's own below `root`."""
    found = [cls for cls in root.__subclasses__() if cls.__module__ == PreceptorError.__module__]
    return [*found, *(below for cls in found for below in tree(cls))]


def test_what_mends_a_vocabulary_mismatch_is_there() -> None:
    [named] = re.findall(r"`(preceptor_services\.[\w.]+:\w+)`", MEND_VOCABULARY)

    assert isinstance(pkgutil.resolve_name(named), type)
    assert "vocabulary" in {command.name for command in expert.app.registered_commands}
