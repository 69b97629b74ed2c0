"""Recipes that cannot work are refused when they are built, with the reason."""

from pathlib import Path

import pytest

from preceptor_trainer.collect.context import PapersContext
from preceptor_trainer.collect.labelling import ExpertUse
from preceptor_trainer.collect.rollout_sources import References
from preceptor_trainer.evaluation.held_out import EvaluationConfig
from preceptor_trainer.learner.learner import OptimiserConfig
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.objectives.divergences import Divergence
from preceptor_trainer.objectives.gkd import GKD
from preceptor_trainer.objectives.group_rewards import SoftOverlong
from preceptor_trainer.objectives.grpo import GRPO
from preceptor_trainer.objectives.hybrid import Hybrid
from preceptor_trainer.objectives.importance import TruncatedImportance
from preceptor_trainer.objectives.kdrl import KDRL
from preceptor_trainer.objectives.on_policy_distillation import OnPolicyDistillation
from preceptor_trainer.objectives.opsd import OPSD
from preceptor_trainer.objectives.sdpo import SDPO
from preceptor_trainer.objectives.sft import SFT
from preceptor_trainer.objectives.trrd import TRRD
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.tasks.programming_by_example.problems import sample_problems
from preceptor_trainer.tasks.programming_by_example.task import PROGRAMMING
from preceptor_trainer.tasks.task import NOT_JUDGED

REVERSE_KL = Divergence(alpha=1.0, support="student")
GIVEN = References(texts_of=lambda problem: ("x",))
BLIND = (ExpertUse(name="blind", own_logprobs=False),)
FIXED = (ExpertUse(name="fixed", scores_candidates=False),)
SAMPLES = (ExpertUse(name="samples", kind="empirical"),)
TOP_P = SamplingParams(top_p=0.95)


def build(objective, **fields):
    """A run of the quickstart world, not started."""
    problems = sample_problems("train", count=1, seed=0)
    return RunConfig(
        **{
            "name": "run",
            "seed": 0,
            "model": Path("student"),
            "problems": lambda step: problems,
            "evaluation": EvaluationConfig(problems=problems),
            "objective": objective,
            "optimiser": OptimiserConfig(lr=1e-4),
            "experts": (ExpertUse(name="teacher"),),
            "task": PROGRAMMING,
            "context": PapersContext(),
            **fields,
        }
    )


@pytest.mark.parametrize(
    ("objective", "fields", "reason"),
    [
        (TRRD(), {"experts": BLIND}, "TRRD needs .* sampled tokens, but expert 'blind'"),
        (KDRL(), {"experts": BLIND}, "KDRL needs .* sampled tokens, but expert 'blind'"),
        (OnPolicyDistillation(), {"experts": BLIND}, "sampled tokens, but expert 'blind'"),
        (SDPO(form="sampled"), {"experts": BLIND}, "sampled tokens, but expert 'blind'"),
        (SDPO(divergence=REVERSE_KL), {"experts": FIXED}, "scores_candidates=False"),
        (GKD(divergence=REVERSE_KL), {"experts": FIXED}, "scores_candidates=False"),
        (Hybrid(), {"experts": FIXED}, "scores_candidates=False"),
        (SDPO(divergence=Divergence()), {"experts": SAMPLES}, "alpha=0.5 needs .*'empirical'"),
        (GKD(), {"experts": SAMPLES}, "alpha=0.5 needs .*'empirical'"),
        (OPSD(divergence=Divergence()), {"experts": SAMPLES}, "alpha=0.5 needs .*'empirical'"),
        (DistIL(future="kl"), {"experts": SAMPLES}, "a sample does not determine the entropy"),
        (DistIL(), {"sampling": TOP_P}, "top_p=0.95 truncates the policy"),
        (GRPO(), {"sampling": TOP_P}, "top_p=0.95 truncates the policy"),
        (OnPolicyDistillation(), {"sampling": TOP_P}, "top_p=0.95 truncates the policy"),
        (DistIL(), {"experts": ()}, "experts: is empty"),
        (SDPO(), {"experts": ()}, "experts: is empty"),
        (TRRD(), {"experts": ()}, "experts: is empty"),
        (SFT(soft=0.5), {"experts": (), "rollout_source": GIVEN}, "experts: is empty"),
        (GRPO(), {"task": NOT_JUDGED}, "task.sources: is empty"),
        (GRPO(), {"rollouts_per_problem": 1}, "rollouts_per_problem=1 leaves no sibling"),
        (SFT(), {}, "rollout_source: gives no sequence to imitate"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_with_the_reason(objective, fields, reason):
    with pytest.raises(ValueError, match=reason):
        build(objective, **fields)


@pytest.mark.parametrize(
    ("objective", "fields"),
    [
        (GRPO(), {"experts": ()}),
        (GRPO.dapo(), {"experts": ()}),
        (SFT(), {"experts": (), "task": NOT_JUDGED, "rollout_source": GIVEN}),
        (SFT(soft=1.0), {"rollout_source": GIVEN}),
        (SDPO(), {}),
        (SDPO(divergence=Divergence(alpha=1.0)), {"experts": FIXED}),
        (SDPO(divergence=Divergence(alpha=0.0)), {"experts": SAMPLES}),
        (OPSD(), {"experts": SAMPLES, "sampling": TOP_P}),
        (DistIL(), {"experts": SAMPLES}),
        (TRRD(), {"experts": FIXED}),
        (GRPO(importance=TruncatedImportance()), {"experts": (), "sampling": TOP_P}),
    ],
)
def test_a_recipe_that_can_work_is_built(objective, fields):
    assert build(objective, **fields).objective is objective


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Divergence(alpha=1.5), r"alpha must be in \[0, 1\]"),
        (lambda: Divergence(rest="drop"), "rest must be one of"),
        (lambda: Divergence(support="both"), "support must be one of"),
        (lambda: Divergence(term_clip=0.0), "term_clip must be positive"),
        (lambda: SDPO(form="token"), "form must be one of"),
        (lambda: SDPO(divide_by="batch"), "divide_by must be one of"),
        (lambda: GRPO(length_constant=0), "length_constant must be positive"),
        (lambda: GKD(divergence=Divergence(num_ids=0)), "num_ids must be positive"),
        (lambda: TRRD(alpha=-0.1), "alpha must be in"),
        (lambda: KDRL(beta=0), "beta must be positive"),
        (lambda: KDRL(dynamic_sampling=True), "leaves groups out of the count"),
        (lambda: Hybrid(reward=GRPO.dapo()), "leaves groups out of the count"),
        (lambda: SFT(soft=2), "soft must be in"),
        (lambda: SoftOverlong(max_length=4, buffer=8), "buffer=8 is longer than max_length=4"),
        (lambda: ExpertUse(name="e", weight=0), "weight of expert 'e' must be positive"),
    ],
)
def test_switches_without_meaning_are_refused_when_built(make, message):
    with pytest.raises(ValueError, match=message):
        make()
