"""`--option name=value`: plain words, read as the types that the function declares."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from preceptor_clients.cli.options import typed_options


def recipe(
    *,
    name: str = "",
    steps: int = 1,
    rate: float = 1.0,
    folder: Path = Path(),
    twice: bool = False,
    mode: Literal["a", "b"] = "a",
    limit: int | None = None,
    names: tuple[str, ...] = (),
    **others: Any,
) -> None: ...


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("steps=12", 12),
        ("name=first", "first"),
        ("name=2024", "2024"),
        ("name=null", "null"),
        ("name=a=b", "a=b"),
        ('name="quoted"', "quoted"),
        ("rate=1e-3", 0.001),
        ("folder=runs/my run", Path("runs/my run")),
        ("twice=true", True),
        ("twice=yes", True),
        ("mode=b", "b"),
        ("limit=null", None),
        ("limit=3", 3),
        ('names=["x", "y"]', ("x", "y")),
    ],
)
def test_a_value_is_of_the_type_that_the_recipe_declares(pair, value):
    name = pair.partition("=")[0]

    assert typed_options([pair], recipe) == {name: value}


@pytest.mark.parametrize(("pair", "value"), [("free=12", 12), ("free=some words", "some words")])
def test_what_no_type_is_declared_for_is_json_or_text(pair, value):
    assert typed_options([pair], recipe) == {"free": value}


@pytest.mark.parametrize("pair", ["steps=abc", "steps=1.5", "mode=c", "twice=maybe"])
def test_a_value_of_another_type_is_refused_by_name(pair):
    with pytest.raises(ValueError, match=pair.replace(".", r"\.")):
        typed_options([pair], recipe)


def test_a_constructor_declares_types_too():
    class Expert:
        def __init__(self, model: str, threads: int = 1) -> None: ...

    assert typed_options(["model=7", "threads=2"], Expert) == {"model": "7", "threads": 2}
