"""Claims about the layout of packed sequences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor_services.experts.engine.packing import Packed, pack, plan_passes

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=8)


def arrays(sequences: list[list[int]]) -> list[np.ndarray]:
    return [np.array(sequence, np.int32) for sequence in sequences]


def seen_by(packed: Packed) -> dict[int, list[int]]:
    """For each packed token, the packed tokens that its attention reads, itself included."""
    return {
        index: [
            *(place for start, stop in segment.above for place in range(start, stop)),
            *range(segment.start, index + 1),
        ]
        for segment in packed.segments
        for index in range(segment.start, segment.stop)
    }


@given(sequences=SEQUENCES, min_shared=st.integers(1, 5))
def test_every_token_sees_its_own_sequence_up_to_itself_and_nothing_else(
    sequences: list[list[int]], min_shared: int
) -> None:
    packed = pack(arrays(sequences), min_shared=min_shared)

    seen = seen_by(packed)
    for sequence, rows in zip(sequences, packed.rows, strict=True):
        assert packed.tokens_N[rows].tolist() == sequence
        assert packed.places_N[rows].tolist() == list(range(len(sequence)))
        for place, row in enumerate(rows.tolist()):
            assert seen[row] == rows[: place + 1].tolist()


@given(sequences=SEQUENCES)
def test_whatever_is_shared_is_laid_out_once(sequences: list[list[int]]) -> None:
    packed = pack(arrays(sequences), min_shared=1)

    beginnings = {tuple(s[:n]) for s in sequences for n in range(1, len(s) + 1)}
    assert len(packed.tokens_N) == len(beginnings)


def test_a_beginning_that_is_too_short_to_pay_is_read_again() -> None:
    packed = pack(arrays([[1, 2, 3, 4], [1, 2, 3, 5]]), min_shared=4)

    assert [(s.start, s.stop, s.above) for s in packed.segments] == [(0, 4, ()), (4, 8, ())]


@pytest.mark.parametrize("max_tokens", [1, 7, 12, 100])
@given(sequences=SEQUENCES, min_shared=st.integers(1, 3))
def test_a_pass_has_the_tokens_allowed_or_a_single_sequence(
    max_tokens: int, sequences: list[list[int]], min_shared: int
) -> None:
    given_arrays = arrays(sequences)

    passes = plan_passes(given_arrays, max_tokens=max_tokens, min_shared=min_shared)

    assert sorted(i for members in passes for i in members) == list(range(len(sequences)))
    for members in passes:
        packed = pack([given_arrays[i] for i in members], min_shared=min_shared)
        assert len(members) == 1 or len(packed.tokens_N) <= max_tokens


def test_siblings_of_one_prompt_share_a_pass_that_would_not_hold_them_apart() -> None:
    prompt = list(range(50))
    siblings = arrays([[*prompt, 100 + i, 7] for i in range(8)])

    assert len(plan_passes(siblings, max_tokens=80, min_shared=2)) == 1
