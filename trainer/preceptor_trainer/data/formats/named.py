"""Finds a format by its name.

form = make_format("livecodebench", {"since": "2025-02-01"})
rows = form(read_rows("test6.jsonl", folder), "train")
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Protocol, cast

from preceptor_clients.contract.sections import nearest
from preceptor_trainer.data import formats
from preceptor_trainer.data.reading import ReadRow
from preceptor_trainer.kit.options import dataclass_of

Part = Literal["train", "held_out"]
"""What rows are read for."""
_NO_FORMATS: Final = ("columns", "named")


class Format(Protocol):
    """Turns the rows of a file into problems."""

    def __call__(self, rows: Sequence[ReadRow], part: Part) -> list[ReadRow]:
        """The rows with `prompt` or `messages` and what judges need.

        Raises:
            ValueError: a row is not of the format; its file and line are named.
        """
        ...


def format_names() -> list[str]:
    """The names of all formats."""
    return sorted(
        module.name
        for module in pkgutil.iter_modules(formats.__path__)
        if module.name not in _NO_FORMATS
    )


def format_class(name: str) -> Any:
    """The dataclass of a format.

    Raises:
        ValueError: there is no such format.
    """
    known = format_names()
    if name not in known:
        raise ValueError(f"{name!r} is no format; {nearest(name, known)}")
    return cast("Any", importlib.import_module(f"{formats.__name__}.{name}")).Format


def make_format(name: str, options: Mapping[str, Any]) -> Format:
    """The format of this name with these options.

    Raises:
        ValueError: there is no such format, or an option is unknown or wrong.
    """
    return cast("Format", dataclass_of(format_class(name), options, "options"))
