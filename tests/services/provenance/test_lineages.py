"""Which steps survive when a run has several lives."""

from __future__ import annotations

from preceptor_services.provenance.lineages import newest, survives, surviving_ends
from preceptor_services.store.provenance.runs import LineageRow

LIVES = {
    "l0": LineageRow("l0", 0, None, 0, {}, 0.0),
    "l1": LineageRow("l1", 1, "l0", 4, {}, 0.0),
    "l2": LineageRow("l2", 2, "l1", 2, {}, 0.0),
    "l3": LineageRow("l3", 3, "l0", 3, {}, 0.0),
}


def test_a_resumed_life_supersedes_its_parent_from_its_first_step() -> None:
    ends = surviving_ends(LIVES, "l1")

    assert [survives(ends, "l0", step) for step in (3, 4)] == [True, False]
    assert survives(ends, "l1", 400)


def test_a_life_that_goes_back_further_than_its_parent_cuts_the_grandparent_too() -> None:
    ends = surviving_ends(LIVES, "l2")

    assert [survives(ends, "l0", step) for step in (1, 2)] == [True, False]
    assert not survives(ends, "l1", 4)


def test_lives_beside_the_newest_do_not_survive() -> None:
    tip = newest(LIVES)
    assert tip == "l3"

    ends = surviving_ends(LIVES, tip)

    assert not survives(ends, "l1", 0)
    assert newest({}) is None
