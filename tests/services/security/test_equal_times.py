"""How long the check of a key takes tells nothing about the keys that are valid."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from preceptor_clients.contract.deployment import DeployedKey
from preceptor_clients.contract.errors import Unauthorised
from preceptor_services.registry.keyring import Keyring

from ..world import MovedClock

NUM_TRIES = 2000
KEY = "k3y" * 14 + "x"


def _times(check: Callable[[str], object]) -> list[np.ndarray]:
    """Nanoseconds of each try of wrong keys that begin with none, half and all but the last
    characters of the right one; they take turns in a random order, and none comes twice.
    """
    shared = (0, len(KEY) // 2, len(KEY) - 6)
    draw = random.Random(0)
    times: dict[int, list[int]] = {length: [] for length in shared}
    # All drawn before the first is timed: what comes before a try decides what the caches hold.
    tries = [
        (length, KEY[:length] + "".join(draw.choices("abcdef", k=len(KEY) - length)))
        for length in shared
        for _ in range(NUM_TRIES)
    ]
    draw.shuffle(tries)
    for length, token in tries:
        began = time.perf_counter_ns()
        check(token)
        times[length].append(time.perf_counter_ns() - began)
    return [np.array(taken) for taken in times.values()]


def _chance_of_longer(one: np.ndarray, other: np.ndarray) -> float:
    """How often a try of `one` takes longer than a try of `other`; a half where nothing differs."""
    above = np.searchsorted(np.sort(other), one, side="left").sum()
    below = np.searchsorted(np.sort(other), one, side="right").sum()
    return float(above + below) / (2 * len(one) * len(other))


def _refused(keyring: Keyring) -> Callable[[str], None]:
    def check(token: str) -> None:
        try:
            keyring.caller(f"Bearer {token}")
        except Unauthorised:
            return
        raise AssertionError("a wrong key opened")

    return check


def test_S2_a_wrong_key_takes_as_long_whatever_it_shares_with_a_right_one(tmp_path: Path) -> None:
    (tmp_path / "a.key").write_text(KEY)
    key = DeployedKey(file=tmp_path / "a.key", scopes=("trainer",))

    nothing, half, almost = _times(_refused(Keyring("h" * 40, {"a": key}, MovedClock())))

    assert _chance_of_longer(half, nothing) == pytest.approx(0.5, abs=0.06)
    assert _chance_of_longer(almost, nothing) == pytest.approx(0.5, abs=0.06)


def test_the_measurement_finds_a_check_that_stops_at_the_first_wrong_character() -> None:
    def leaks(token: str) -> bool:
        return all(one == other for one, other in zip(token, KEY, strict=True))

    nothing, _, almost = _times(leaks)

    assert _chance_of_longer(almost, nothing) > 0.9
