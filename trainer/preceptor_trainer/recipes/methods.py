"""The methods that can be compared: one `Method` each, taken by its name.

    preceptor compare fast --methods distil,distil-local,remaining,kl-to-go

A method is its objective, its experts and what they may see; everything else is the comparison's.
To add one, write such a value in a module of your own and name it `module:METHOD`.

Learning rates are searched over one grid for all: AdamW takes the scale of a loss out, so the same
rates mean about the same steps.
"""

from __future__ import annotations

from typing import Any, Final

from preceptor_trainer.asking import ExpertUse
from preceptor_trainer.compare.method import Method, Trial
from preceptor_trainer.compare.sees import Sees
from preceptor_trainer.compare.services import self_teacher
from preceptor_trainer.config import RunConfig
from preceptor_trainer.context import PapersContext
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.recipes.quickstart import TYPICAL_LENGTH
from preceptor_trainer.update import OptimiserConfig

RATES: Final = (5e-5, 1.5e-4, 4.5e-4)
WARMUP_STEPS: Final = 4

_SELF: Final = {"self-teacher": self_teacher()}
_FEEDBACK: Final = Sees(score="chooses demonstrations", trace=True, sibling=True)


def run_of(trial: Trial, **decided: Any) -> RunConfig:
    """A run of `trial`; unless decided otherwise, the self-teacher in the papers' context."""
    return RunConfig(
        **{
            "name": trial.name,
            "seed": trial.seed,
            "steps": trial.steps,
            "model": trial.model,
            "problems": trial.problems,
            "rollouts_per_problem": trial.rollouts_per_problem,
            "checkpoint_every": trial.checkpoint_every,
            "evaluation": trial.evaluation,
            "optimiser": OptimiserConfig(lr=trial.lr, warmup_steps=WARMUP_STEPS),
            "experts": (ExpertUse(name="self-teacher"),),
            "sources": ("executor",),
            "context": PapersContext(),
            **decided,
        }
    )


def distil(trial: Trial) -> RunConfig:
    """The exact sequence-level gradient."""
    return run_of(trial, objective=DistIL(length_constant=TYPICAL_LENGTH))


def distil_local(trial: Trial) -> RunConfig:
    """The local term alone: tokenwise forward KL."""
    return run_of(trial, objective=DistIL(future="none", length_constant=TYPICAL_LENGTH))


def remaining(trial: Trial) -> RunConfig:
    """The released estimator: mean of later costs, no baseline."""
    return run_of(
        trial,
        objective=DistIL(normaliser="remaining", baseline="none", length_constant=TYPICAL_LENGTH),
    )


def kl_to_go(trial: Trial) -> RunConfig:
    """Earlier tokens are charged with later KL instead of later cross-entropy."""
    return run_of(trial, objective=DistIL(future="kl", length_constant=TYPICAL_LENGTH))


DISTIL: Final = Method(
    name="distil",
    title="DistIL",
    recipe=distil,
    sees=_FEEDBACK,
    services=_SELF,
    learning_rates=RATES,
)
DISTIL_LOCAL: Final = Method(
    name="distil-local",
    title="DistIL, local term only",
    recipe=distil_local,
    sees=_FEEDBACK,
    services=_SELF,
    learning_rates=RATES,
    note="the ablation without future credit, equal to forward-KL self-distillation",
)
REMAINING: Final = Method(
    name="remaining",
    title="DistIL, mean of later costs",
    recipe=remaining,
    sees=_FEEDBACK,
    services=_SELF,
    learning_rates=RATES,
    note="the future term as in the released code: biased, bounded, without a baseline",
)
KL_TO_GO: Final = Method(
    name="kl-to-go",
    title="DistIL, KL-to-go",
    recipe=kl_to_go,
    sees=_FEEDBACK,
    services=_SELF,
    learning_rates=RATES,
    note="does not charge for the expert's entropy, so it does not pull towards short answers",
)
