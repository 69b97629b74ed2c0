"""What the source says beside a name, read without importing it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

import griffe


def of_class(cls: type[Any]) -> str:
    """The docstring of a class itself, not of its bases."""
    return inspect.cleandoc(vars(cls).get("__doc__") or "")


def first_line(text: str) -> str:
    """The first paragraph, on one line."""
    return " ".join(text.split("\n\n")[0].split())


def of_field(cls: type[Any], name: str) -> str:
    """The docstring under a field, of the nearest class that has one."""
    found = next((field for field in _fields(cls, name) if field.docstring is not None), None)
    return "" if found is None or found.docstring is None else found.docstring.value


def type_of_field(cls: type[Any], name: str) -> str:
    """The annotation of a field, as it is written."""
    found = next(_fields(cls, name), None)
    return "" if found is None or found.annotation is None else str(found.annotation)


def _fields(cls: type[Any], name: str) -> Iterator[griffe.Attribute]:
    """The field in the class itself and in its bases."""
    for owner in cls.__mro__:
        if owner.__module__.startswith("preceptor_"):
            member = _module(owner.__module__)[owner.__qualname__].members.get(name)
            if isinstance(member, griffe.Attribute):
                yield member


@cache
def _module(name: str) -> griffe.Object:
    # Members of packages are found below them, so the package is loaded once.
    package, _, inside = name.partition(".")
    root = _package(package)
    found = root[inside] if inside else root
    assert isinstance(found, griffe.Object)
    return found


@cache
def _package(name: str) -> griffe.Object:
    found = griffe.load(name, allow_inspection=False)
    assert isinstance(found, griffe.Object)
    return found
