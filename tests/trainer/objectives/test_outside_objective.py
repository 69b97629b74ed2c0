"""An objective of one's own is one file and a recipe: the documentation's example, as it stands."""

import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from preceptor_trainer.collect.labelling import ExpertUse
from preceptor_trainer.learner.learner import Learner, OptimiserConfig
from preceptor_trainer.model.batch import collate
from preceptor_trainer.model.heads.dense import student_statistics
from preceptor_trainer.recipes.quickstart import quickstart
from preceptor_trainer.run.config import describe
from preceptor_trainer.theory.enumeration import PrefixTable

pytestmark = pytest.mark.usefixtures("one_thread")

DOCS = Path(__file__).parents[3] / "docs"
FILE = DOCS / "examples" / "skewed_kl.py"


def shown() -> list[str]:
    """The Python blocks of the page on an objective of one's own."""
    page = (DOCS / "how-to" / "plug-in-an-objective.md").read_text()
    return re.findall(r"^```python\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def outside() -> ModuleType:
    spec = importlib.util.spec_from_file_location("skewed_kl", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_documentation_shows_the_file_as_it_stands():
    objective, _ = shown()

    assert objective == FILE.read_text()


def test_the_recipe_of_the_documentation_is_complete(monkeypatch):
    _, source = shown()
    monkeypatch.syspath_prepend(FILE.parent)
    module = ModuleType("my_recipe")

    exec(compile(source, "my_recipe.py", "exec"), vars(module))
    config = module.recipe(seed=3)

    assert describe(config)["objective"] == {
        "class": "SkewedKL",
        "divide_by": "tokens",
        "length_constant": 1.0,
        "skew": 0.2,
    }
    assert config.seed == 3


def test_a_recipe_takes_it_and_writes_it_down(outside):
    config = replace(quickstart(held_out=1), objective=outside.SkewedKL(skew=0.2))

    assert describe(config)["objective"] == {
        "class": "SkewedKL",
        "divide_by": "tokens",
        "length_constant": 1.0,
        "skew": 0.2,
    }


def test_a_recipe_that_it_cannot_work_in_is_refused(outside, make_plan):
    draws = ExpertUse(name="draws", kind="empirical")

    with pytest.raises(ValueError, match="skewed KL needs the expert's log-probs"):
        outside.SkewedKL().check(make_plan(experts=(draws,)))


def test_its_loss_is_its_formula(outside, make_component, make_rollout):
    policy = PrefixTable(torch.zeros(1, 3, dtype=torch.float64))
    batch = collate([make_rollout("a", (0,), [make_component([[0, 1]], [[0.5, 0.25]])])])
    objective = outside.SkewedKL(skew=0.25)
    stats = student_statistics(policy, batch, objective.needs)
    (advantages,) = objective.advantages([stats], [batch])

    loss, metrics = objective(stats, batch, advantages, objective.denominator([batch]))

    q, p = np.array([0.5, 0.25, 0.25]), np.full(3, 1 / 3)
    assert loss.item() == pytest.approx((q * np.log(q / (0.25 * q + 0.75 * p))).sum())
    assert metrics["token_loss"].value() == pytest.approx(loss.item())


def test_a_step_with_it_moves_the_student_to_the_expert(outside, make_component, make_rollout):
    policy = PrefixTable(torch.zeros(1, 3, dtype=torch.float64))
    batch = collate([make_rollout("a", (0,), [make_component([[2]], [[0.9]])])])

    Learner(policy, OptimiserConfig(lr=0.1)).step([batch], outside.SkewedKL())

    assert policy.logits[0].argmax() == 2
