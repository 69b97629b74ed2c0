"""What a run's configuration refuses when it is built."""

from dataclasses import replace

import pytest

from preceptor_trainer.recipes.quickstart import quickstart


def test_a_rate_that_is_zero_before_the_run_ends_is_refused():
    config = quickstart(steps=10, held_out=4)
    falling = replace(config.optimiser, decay_until=9)

    with pytest.raises(ValueError, match="decay_until: 9 leaves a rate of zero"):
        replace(config, optimiser=falling)


@pytest.mark.parametrize("field", ["steps", "rollouts_per_problem", "checkpoint_every"])
def test_counts_below_one_are_refused(field):
    config = quickstart(steps=10, held_out=4)

    with pytest.raises(ValueError, match=f"{field}: must be at least 1, not 0"):
        replace(config, **{field: 0})
