"""What is spelled on a command line, and what is said where it cannot be meant."""

from __future__ import annotations

import math

import pytest

from preceptor_clients.kit.naming import load_named


def test_an_object_is_found_by_module_and_name() -> None:
    assert load_named("math:sqrt") is math.sqrt


@pytest.mark.parametrize(
    ("spelled", "words"),
    [
        ("math", "'math' is not module:name"),
        ("math:", "'math:' is not module:name"),
        (":sqrt", "':sqrt' is not module:name"),
        ("no_such_module:x", "No module named 'no_such_module'"),
        ("math:no_such_name", "no_such_name"),
    ],
)
def test_what_is_not_there_is_said(spelled: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_named(spelled)
