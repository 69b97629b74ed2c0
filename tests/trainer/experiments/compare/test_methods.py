"""Every method that the package names can be built, taken by name, and says what it is."""

from dataclasses import replace

import pytest
import typer

from preceptor_trainer.experiments.compare.command import (
    compare_command,
    load_method,
    with_middle_rate,
)
from preceptor_trainer.experiments.compare.method import Method, RateFrom
from preceptor_trainer.experiments.compare.sees import Sees
from preceptor_trainer.recipes import methods

METHODS = [value for value in vars(methods).values() if isinstance(value, Method)]


@pytest.mark.parametrize("one", METHODS, ids=lambda method: method.name)
def test_a_method_s_recipe_keeps_to_its_trial(comparison, one):
    trial = comparison.trial(comparison.search_cells()[0])

    config = one.build(trial)

    assert config.optimiser.lr == trial.lr
    assert {use.name for use in config.experts} == set(one.services)


@pytest.mark.parametrize("one", METHODS, ids=lambda method: method.name)
def test_a_method_is_found_by_its_name(one):
    assert load_method(one.name) is one


@pytest.mark.parametrize("one", METHODS, ids=lambda method: method.name)
def test_a_method_that_asks_nobody_declares_no_opinion(comparison, one):
    config = one.build(comparison.trial(comparison.search_cells()[0]))

    assert (not config.experts) == (one.sees.opinion == "none")


def test_methods_have_different_names_and_titles():
    assert len({m.name for m in METHODS}) == len({m.title for m in METHODS}) == len(METHODS)


def test_a_method_of_another_module_is_found_by_its_path():
    path = "preceptor_trainer.recipes.methods:DISTIL"

    assert load_method(path) is methods.DISTIL


def test_what_is_no_method_is_refused_by_name():
    with pytest.raises(
        typer.BadParameter, match="'RATES' is neither module:name nor one of distil"
    ):
        load_method("rates")
    with pytest.raises(typer.BadParameter, match="'NO_SUCH' is neither module:name nor one of"):
        load_method("no-such")
    with pytest.raises(ValueError, match="is a tuple, no"):
        load_method("preceptor_trainer.recipes.methods:RATES")


def test_without_a_search_the_middle_rate_is_taken():
    assert with_middle_rate(methods.DISTIL).learning_rates == methods.RATES[1:2]


def test_a_budget_in_two_units_is_refused(tmp_path):
    with pytest.raises(typer.BadParameter, match=r"one of steps, seconds and tokens"):
        compare_command("fast", out=tmp_path, steps=2, tokens=100)


def test_a_rate_from_elsewhere_leaves_nothing_to_search():
    with pytest.raises(ValueError, match="rate_from: chose one learning rate"):
        replace(methods.DISTIL, rate_from=RateFrom(comparison="first", at_edge=False))


def test_a_method_without_a_usable_name_is_refused():
    with pytest.raises(ValueError, match="name must match"):
        Method(
            name="Dist IL",
            title="x",
            recipe=methods.distil,
            sees=Sees(score="no"),
            learning_rates=(1.0,),
        )
