"""The methods that can be compared: one `Method` each, selected by name.

    preceptor compare fast --methods distil,distil-local,remaining,kl-to-go

A method is its objective, its experts and their context policy; the comparison sets everything
else. To add one, define such a value in your own module and name it `module:METHOD`.

DistIL and its variants are here, the others in `baselines.py`.
"""

from __future__ import annotations

from typing import Final

from preceptor_trainer.collect.context import NothingInView
from preceptor_trainer.collect.labelling import ExpertUse
from preceptor_trainer.experiments.compare.method import Method, Trial
from preceptor_trainer.experiments.compare.sees import Sees
from preceptor_trainer.experiments.compare.services import self_teacher
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.recipes.baselines import (
    GKD,
    GKD_SELF,
    GRPO,
    HYBRID,
    KDRL,
    ON_POLICY_DISTILLATION,
    OPSD,
    RLAD,
    RLAD_SELF,
    SDPO,
    SFT,
)
from preceptor_trainer.recipes.method_run import RATES, SELF_TEACHER, run_of
from preceptor_trainer.recipes.quickstart import TYPICAL_LENGTH
from preceptor_trainer.run.config import RunConfig

__all__ = [
    "DISTIL", "DISTIL_LOCAL", "GKD", "GKD_SELF", "GRPO", "HYBRID", "KDRL", "KL_TO_GO",
    "ON_POLICY_DISTILLATION", "OPSD", "REMAINING", "RLAD", "RLAD_SELF", "SDPO", "SFT", "WITHHELD",
]  # fmt: skip

_PLAIN: Final = {"plain-teacher": self_teacher(needs_feedback=False)}
_FEEDBACK: Final = Sees(score="chooses demonstrations", trace=True, solution=True)


def distil(trial: Trial) -> RunConfig:
    """The exact sequence-level gradient."""
    return run_of(trial, objective=DistIL(length_constant=TYPICAL_LENGTH))


def distil_local(trial: Trial) -> RunConfig:
    """The local term alone: tokenwise forward KL."""
    return run_of(trial, objective=DistIL(future="none", length_constant=TYPICAL_LENGTH))


def remaining(trial: Trial) -> RunConfig:
    """The released future term, over the expert's ids: mean of later costs, no baseline."""
    return run_of(
        trial,
        objective=DistIL(normaliser="remaining", baseline="none", length_constant=TYPICAL_LENGTH),
    )


def kl_to_go(trial: Trial) -> RunConfig:
    """Earlier tokens are charged with later KL instead of later cross-entropy."""
    return run_of(trial, objective=DistIL(future="kl", length_constant=TYPICAL_LENGTH))


def withheld(trial: Trial) -> RunConfig:
    """DistIL towards the same expert without feedback."""
    return run_of(
        trial,
        objective=DistIL(length_constant=TYPICAL_LENGTH),
        experts=(ExpertUse(name="plain-teacher", needs_feedback=False),),
        context=NothingInView(),
    )


DISTIL: Final = Method(
    name="distil",
    title="DistIL",
    recipe=distil,
    sees=_FEEDBACK,
    services=SELF_TEACHER,
    learning_rates=RATES,
)
DISTIL_LOCAL: Final = Method(
    name="distil-local",
    title="DistIL, local term only",
    recipe=distil_local,
    sees=_FEEDBACK,
    services=SELF_TEACHER,
    learning_rates=RATES,
    note="the ablation without future credit, equal to forward-KL self-distillation",
)
REMAINING: Final = Method(
    name="remaining",
    title="DistIL, mean of later costs",
    recipe=remaining,
    sees=_FEEDBACK,
    services=SELF_TEACHER,
    learning_rates=RATES,
    note="the released future term, over the expert's top k instead of the student's: biased, "
    "bounded, without a baseline",
)
KL_TO_GO: Final = Method(
    name="kl-to-go",
    title="DistIL, KL-to-go",
    recipe=kl_to_go,
    sees=_FEEDBACK,
    services=SELF_TEACHER,
    learning_rates=RATES,
    note="does not charge for the expert's entropy, so it does not pull towards short answers",
)
WITHHELD: Final = Method(
    name="withheld",
    title="Feedback withheld",
    recipe=withheld,
    sees=Sees(score="no"),
    services=_PLAIN,
    learning_rates=RATES,
    note="the control: what the student's own average with nothing in view does to it",
)
