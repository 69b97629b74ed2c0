"""What a run's configuration refuses when it is built."""

from dataclasses import replace

import pytest

from preceptor_trainer.collect.dynamic_sampling import DynamicSampling
from preceptor_trainer.collect.people.people import PeopleConfig
from preceptor_trainer.collect.rollout_sources import References
from preceptor_trainer.learner.lora import Lora
from preceptor_trainer.recipes.quickstart import quickstart
from preceptor_trainer.run.config import describe
from preceptor_trainer.run.schedules import Overlapped
from preceptor_trainer.run.standing import differences
from preceptor_trainer.sampling.service import SampledByService
from preceptor_trainer.tasks.task import NOT_JUDGED


def test_a_rate_that_is_zero_before_the_run_ends_is_refused():
    config = quickstart(steps=10, held_out=4)
    falling = replace(config.optimiser, decay_until=9)

    with pytest.raises(ValueError, match="decay_until: 9 leaves a rate of zero"):
        replace(config, optimiser=falling)


@pytest.mark.parametrize(
    "field",
    ["steps", "rollouts_per_problem", "checkpoint_every", "max_prompt", "keep"],
)
def test_counts_below_one_are_refused(field):
    config = quickstart(steps=10, held_out=4)

    with pytest.raises(ValueError, match=f"{field}: must be at least 1, not 0"):
        replace(config, **{field: 0})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"task": NOT_JUDGED}, "needs sources that score"),
        ({"rollouts_per_problem": 1}, "1 of a group's 1 rollouts are sampled"),
        (
            {"rollout_source": References(texts_of=lambda problem: ["x"])},
            "0 of a group's 4 rollouts",
        ),
        ({"participants": (PeopleConfig(),)}, "not together with participants"),
    ],
)
def test_dynamic_sampling_is_refused_where_it_cannot_work(fields, reason):
    config = quickstart(steps=10, held_out=4)

    with pytest.raises(ValueError, match=f"dynamic_sampling: .*{reason}"):
        replace(config, dynamic_sampling=DynamicSampling(groups=2), **fields)


def test_moments_in_main_memory_are_refused_where_ranks_divide_them():
    config = quickstart(steps=10, held_out=4)
    on_host = replace(config.optimiser, moments="host")

    with pytest.raises(ValueError, match="moments: `host` is for one process, and there are 2"):
        replace(config, optimiser=on_host, ranks=2)


def test_a_sampler_that_sleeps_is_refused_where_steps_overlap():
    config = quickstart(steps=10, held_out=4)
    sampler = SampledByService(url="http://s:8106", sleeps=True)

    with pytest.raises(ValueError, match=r"sampler\.sleeps: needs staleness 0"):
        replace(config, sampler=sampler, schedule=Overlapped())


@pytest.mark.parametrize(
    ("field", "value"),
    [("dtype", "float16"), ("publish", "float16"), ("long_prompts", "truncate")],
)
def test_a_word_that_is_not_one_of_the_choices_is_refused(field, value):
    config = quickstart(steps=10, held_out=4)

    with pytest.raises(ValueError, match=f"{field}: '{value}' is not one of"):
        replace(config, **{field: value})


def test_versions_of_an_adapter_are_not_rounded():
    config = quickstart(steps=10, held_out=4)

    with pytest.raises(ValueError, match="publish: not together with lora"):
        replace(config, publish="bfloat16", lora=Lora(rank=2))


def test_template_variables_that_come_later_are_other_settings():
    begun = describe(quickstart(steps=10, held_out=4))
    now = describe(
        replace(quickstart(steps=10, held_out=4), chat_template_kwargs={"enable_thinking": False})
    )

    assert [d.name for d in differences(begun, now)] == ["chat_template_kwargs"]
