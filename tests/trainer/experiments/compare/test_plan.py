"""What a comparison refuses, and which cells it consists of."""

from dataclasses import replace

import pytest

from preceptor_trainer.collect.labelling import ExpertUse
from preceptor_trainer.experiments.compare.services import self_teacher
from preceptor_trainer.learner.learner import OptimiserConfig


def test_the_search_costs_the_same_for_every_method(planned, method):
    with pytest.raises(ValueError, match=r"search costs differ, \{'a': 2, 'b': 1\}"):
        planned(method("a"), method("b", learning_rates=(1e-4,)))


def test_the_search_has_seeds_of_its_own(planned):
    with pytest.raises(ValueError, match="overlap"):
        planned(search_seeds=(1, 7))


def test_rates_are_not_chosen_on_the_problems_that_count(comparison):
    setting = comparison.setting

    with pytest.raises(ValueError, match="6 of its problems are held out too"):
        replace(comparison, setting=replace(setting, validation=setting.held_out))


def test_every_method_meets_every_rate_and_every_seed(comparison):
    search = comparison.search_cells()
    final = comparison.final_cells({"a": 1e-4, "b": 2e-4})

    assert [(c.method, c.lr) for c in search] == [
        ("a", 1e-4), ("a", 2e-4), ("b", 1e-4), ("b", 2e-4),
    ]  # fmt: skip
    assert [(c.method, c.lr, c.seed) for c in final] == [
        ("a", 1e-4, 0), ("b", 2e-4, 0), ("a", 1e-4, 1), ("b", 2e-4, 1),
    ]  # fmt: skip
    assert len({c.name for c in search + final}) == 8


def test_a_single_rate_needs_no_search(planned, method):
    one = planned(method("a", learning_rates=(1e-4,)), method("b", learning_rates=(3e-4,)))

    assert one.search_cells() == []


def test_the_search_is_on_validation_and_the_end_on_held_out_problems(comparison):
    (cell, *_), (last, *_) = comparison.search_cells(), comparison.final_cells({"a": 1, "b": 1})

    assert comparison.trial(cell).evaluation is comparison.setting.validation
    assert comparison.trial(last).evaluation is comparison.setting.held_out


def test_one_name_cannot_mean_two_experts(planned, method):
    other = method("b", services={"self-teacher": self_teacher(ema_rate=0.5)})

    with pytest.raises(ValueError, match="two different experts"):
        planned(method("a"), other)


def test_a_recipe_that_changes_the_trial_is_refused(comparison, method):
    greedy = method("a")
    hasty = replace(
        greedy,
        recipe=lambda trial: replace(
            greedy.recipe(trial), optimiser=OptimiserConfig(lr=trial.lr * 10)
        ),
    )
    trial = comparison.trial(comparison.search_cells()[0])

    with pytest.raises(ValueError, match=r"lr: the recipe of 'a' changed 0\.0001 to 0\.001"):
        hasty.build(trial)


def test_a_recipe_that_asks_an_unnamed_expert_is_refused(comparison, method):
    plain = method("a")
    curious = replace(
        plain,
        recipe=lambda trial: replace(plain.recipe(trial), experts=(ExpertUse(name="oracle"),)),
    )

    with pytest.raises(ValueError, match=r"uses \['oracle'\]"):
        curious.build(comparison.trial(comparison.search_cells()[0]))


@pytest.mark.parametrize("rates", [(), (2e-4, 1e-4), (0.0,)])
def test_learning_rates_that_cannot_be_searched_are_refused(method, rates):
    with pytest.raises(ValueError, match="learning_rates"):
        method("a", learning_rates=rates)
