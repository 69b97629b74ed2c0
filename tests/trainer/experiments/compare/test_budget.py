"""A run stops when its budget is spent, also when earlier lives spent a part of it."""

import pytest

from preceptor_trainer.experiments.compare.budget import Budget, WithinBudget, spent
from preceptor_trainer.run.schedules import Deterministic, Overlapped
from preceptor_trainer.run.watching.metrics_log import MetricsLog, read_metrics

STEP = {"rollouts": 4.0, "response_length": 10.0, "seconds/update": 1.5, "seconds/sampling": 0.5}


async def drive(run_dir, budget, *, first=0, inner=None):
    """Steps taken, each of 40 tokens and 2 seconds."""
    schedule = WithinBudget(inner=inner or Deterministic(), budget=budget, run_dir=run_dir)
    taken: list[int] = []
    with MetricsLog(run_dir, first_step=first) as log:

        async def collect(step):
            return step

        async def train(step):
            log.write(step, "l0", STEP)
            taken.append(step)
            return True

        await schedule.drive(range(first, budget.most_steps), collect, train)
    return taken


@pytest.mark.parametrize(
    ("unit", "amount", "steps"), [("steps", 3, 3), ("seconds", 5, 3), ("tokens", 100, 3)]
)
async def test_no_step_begins_once_the_budget_is_spent(tmp_path, unit, amount, steps):
    taken = await drive(tmp_path, Budget(unit=unit, amount=amount))

    assert taken == list(range(steps))


async def test_a_run_that_goes_on_has_only_the_rest(tmp_path):
    await drive(tmp_path, Budget(unit="tokens", amount=80))

    taken = await drive(tmp_path, Budget(unit="tokens", amount=160), first=2)

    assert taken == [2, 3]
    assert spent(read_metrics(tmp_path), "tokens") == 160


async def test_an_overlapped_schedule_overshoots_by_no_more_than_its_staleness(tmp_path):
    budget = Budget(unit="tokens", amount=160)

    taken = await drive(tmp_path, budget, inner=Overlapped(staleness=1))

    assert 4 <= len(taken) <= 6


@pytest.mark.parametrize(
    ("unit", "amount", "word"),
    [("hours", 1, "unit"), ("steps", 0, "amount"), ("steps", 1.5, "whole")],
)
def test_what_is_no_budget_is_refused(unit, amount, word):
    with pytest.raises(ValueError, match=word):
        Budget(unit=unit, amount=amount)


def test_tokens_of_discarded_rollouts_are_paid_for():
    assert spent([STEP, STEP | {"discarded_tokens": 25.0}], "tokens") == 105
