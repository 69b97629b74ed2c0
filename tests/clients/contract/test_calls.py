"""Which questions go together in one call."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor_clients.contract.calls import fill_calls

SIZES = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 50)), max_size=30)


@given(SIZES)
def test_items_keep_their_order_and_a_call_of_several_is_within_its_limits(
    sizes: list[tuple[int, int]],
) -> None:
    calls = fill_calls(sizes, size=lambda size: size, most=(8, 60))

    assert [size for call in calls for size in call] == sizes
    for call in calls:
        assert len(call) == 1 or (sum(n for n, _ in call) <= 8 and sum(t for _, t in call) <= 60)


@given(SIZES)
def test_a_call_is_closed_only_where_the_next_item_does_not_fit(
    sizes: list[tuple[int, int]],
) -> None:
    calls = fill_calls(sizes, size=lambda size: size, most=(8, 60))

    for call, after in pairwise(calls):
        more = [*call, after[0]]
        assert sum(n for n, _ in more) > 8 or sum(t for _, t in more) > 60


@pytest.mark.parametrize(("enough", "expected"), [(None, [3, 1]), (20, [2, 2]), (5, [1, 1, 1, 1])])
def test_a_call_with_enough_tokens_takes_no_further_item(
    enough: int | None, expected: list[int]
) -> None:
    calls = fill_calls([10] * 4, size=lambda n: (1, n), most=(8, 30), enough_tokens=enough)

    assert [len(call) for call in calls] == expected
