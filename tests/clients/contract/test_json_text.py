"""JSON is read strictly, and integers of a payload may be long."""

from __future__ import annotations

import pytest

from preceptor_clients.contract import frame
from preceptor_clients.contract.json_text import MAX_DIGITS, allow_long_integers, read_json


@pytest.mark.parametrize("digits", [4_300, 4_301, 20_000, MAX_DIGITS])
def test_an_integer_of_many_digits_is_read_exactly(digits: int) -> None:
    allow_long_integers()
    number = 10 ** (digits - 1) + 7

    assert read_json(b'{"expected": [%d, 1.5]}' % number) == {"expected": [number, 1.5]}
    assert frame.decode(frame.encode({"expected": number})) == {"expected": number}


LONG = "7" * 5_000


@pytest.mark.parametrize(
    "text",
    [
        f"[{LONG}, NaN]",
        f"[{LONG}, 1e999]",
        f'[{LONG}, "\\ud800"]',
        f"[{LONG}" + "[" * 200_000,
        f"[{LONG}, ]",
        "[" + "7" * (MAX_DIGITS + 1) + "]",
    ],
    ids=["nan", "beyond a float", "half a pair", "deep", "not JSON", "too long"],
)
def test_what_is_refused_beside_short_integers_is_refused_beside_long_ones(text: str) -> None:
    allow_long_integers()

    with pytest.raises(ValueError):  # noqa: PT011 - each for a reason of its own
        read_json(text.encode())
