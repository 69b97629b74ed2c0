"""The circuit breaker, on a clock that the test moves."""

from __future__ import annotations

from preceptor_services.dispatcher.breaker import Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(threshold=3, first_pause_s=1.0, max_pause_s=4.0, clock=clock)
    for _ in range(3):
        breaker.failed()
    return breaker


def test_it_stays_closed_until_failures_come_in_a_row() -> None:
    breaker = Breaker(threshold=3, clock=Clock())

    breaker.failed()
    breaker.failed()
    breaker.succeeded()
    breaker.failed()
    breaker.failed()

    assert breaker.closed
    assert breaker.pause_s() == 0.0


def test_it_lets_one_through_after_the_pause_and_closes_on_success() -> None:
    clock = Clock()
    breaker = opened(clock)
    assert breaker.pause_s() == 1.0

    clock.now += 1.0

    assert breaker.pause_s() == 0.0
    assert not breaker.closed
    breaker.succeeded()
    assert breaker.closed


def test_each_failure_while_half_open_doubles_the_pause_up_to_a_bound() -> None:
    clock = Clock()
    breaker = opened(clock)

    pauses = []
    for _ in range(4):
        clock.now += breaker.pause_s()
        breaker.failed()
        pauses.append(breaker.pause_s())

    assert pauses == [2.0, 4.0, 4.0, 4.0]
