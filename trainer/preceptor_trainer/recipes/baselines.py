"""The methods that DistIL is compared with, each in the form that its authors recommend.

Teachers: the self-teacher (moving average, feedback in view), the frozen one (initial weights, the
reference in view), and a larger model (`LARGER_DIR`), which reads the plain prompt. Where there is
no larger model, RLAD and GKD are also defined with a teacher made of the student. That is a
different method with a different name.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from preceptor_trainer.collect.context import NothingInView
from preceptor_trainer.collect.labelling import ExpertUse
from preceptor_trainer.collect.rollout_sources import References
from preceptor_trainer.experiments.compare.method import Method, Trial
from preceptor_trainer.experiments.compare.sees import Sees
from preceptor_trainer.experiments.compare.services import larger_model, self_teacher
from preceptor_trainer.objectives import (
    gkd,
    grpo,
    hybrid,
    kdrl,
    on_policy_distillation,
    opsd,
    sdpo,
    sft,
    trrd,
)
from preceptor_trainer.objectives.clipping import Clip
from preceptor_trainer.objectives.divergences import Divergence
from preceptor_trainer.recipes.method_run import RATES, SELF_TEACHER, run_of
from preceptor_trainer.recipes.references import ReferenceInView, reference_texts
from preceptor_trainer.run.config import RunConfig

LARGER_DIR: Final = Path(os.environ.get("PRECEPTOR_LARGER_MODEL", "runs/larger/model"))
"""Folder of the larger model, in Hugging Face format."""

_FROZEN: Final = {"frozen-teacher": self_teacher(ema_rate=0.0)}
_LARGER: Final = {"larger-teacher": larger_model(LARGER_DIR)}
_ASK_FROZEN: Final = (ExpertUse(name="frozen-teacher"),)
_ASK_LARGER: Final = (ExpertUse(name="larger-teacher", needs_feedback=False),)
_MIXED: Final = References(texts_of=reference_texts, share=0.5)


def _sdpo(trial: Trial) -> RunConfig:
    divergence = Divergence(alpha=1.0, support="student", num_ids=20)
    return run_of(trial, objective=sdpo.SDPO(divergence=divergence))


def _opsd(trial: Trial) -> RunConfig:
    return run_of(trial, objective=opsd.OPSD(), experts=_ASK_FROZEN, context=ReferenceInView())


def _grpo(trial: Trial) -> RunConfig:
    objective = grpo.GRPO(std=False, divide_by="tokens", clip=Clip(high=0.28, dual=3.0))
    return run_of(trial, objective=objective, experts=(), context=NothingInView())


def _rlad(trial: Trial) -> RunConfig:
    return run_of(trial, objective=trrd.TRRD(), experts=_ASK_LARGER, context=NothingInView())


def _rlad_self(trial: Trial) -> RunConfig:
    return run_of(trial, objective=trrd.TRRD())


def _gkd(trial: Trial) -> RunConfig:
    return run_of(
        trial,
        objective=gkd.GKD(),
        experts=_ASK_LARGER,
        context=NothingInView(),
        rollout_source=_MIXED,
    )


def _gkd_self(trial: Trial) -> RunConfig:
    return run_of(
        trial,
        objective=gkd.GKD(),
        experts=_ASK_FROZEN,
        context=ReferenceInView(),
        rollout_source=_MIXED,
    )


def _kdrl(trial: Trial) -> RunConfig:
    objective = kdrl.KDRL(std=False, divide_by="tokens")
    return run_of(trial, objective=objective, experts=_ASK_LARGER, context=NothingInView())


def _on_policy_distillation(trial: Trial) -> RunConfig:
    objective = on_policy_distillation.OnPolicyDistillation()
    return run_of(trial, objective=objective, experts=_ASK_LARGER, context=NothingInView())


def _hybrid(trial: Trial) -> RunConfig:
    return run_of(trial, objective=hybrid.Hybrid())


def _sft(trial: Trial) -> RunConfig:
    return run_of(
        trial,
        objective=sft.SFT(),
        experts=(),
        context=NothingInView(),
        rollout_source=References(texts_of=reference_texts),
        # a problem has one reference, and a copy teaches nothing
        rollouts_per_problem=1,
    )


SDPO: Final = Method(
    name="sdpo",
    title="SDPO",
    recipe=_sdpo,
    sees=Sees(score="chooses demonstrations", trace=True, solution=True),
    services=SELF_TEACHER,
    learning_rates=RATES,
    note="reverse KL over the student's 20 best tokens, the authors' choice with rich feedback",
)
OPSD: Final = Method(
    name="opsd",
    title="OPSD",
    recipe=_opsd,
    sees=Sees(score="no", reference=True),
    services=_FROZEN,
    learning_rates=RATES,
    note="sees a reference solution of every problem, which feedback methods do not",
)
GRPO: Final = Method(
    name="grpo",
    title="GRPO",
    recipe=_grpo,
    sees=Sees(score="reward", opinion="none"),
    learning_rates=RATES,
    note="without division by the standard deviation, clip-higher, dual clip, token mean",
)
RLAD: Final = Method(
    name="rlad",
    title="RLAD",
    recipe=_rlad,
    sees=Sees(score="reward", larger_model=True, opinion="sampled token"),
    services=_LARGER,
    learning_rates=RATES,
)
RLAD_SELF: Final = Method(
    name="rlad-self",
    title="RLAD, self-teacher",
    recipe=_rlad_self,
    sees=Sees(score="both", trace=True, solution=True, opinion="sampled token"),
    services=SELF_TEACHER,
    learning_rates=RATES,
    note="with the self-teacher in the place of the larger model that its authors use",
)
GKD: Final = Method(
    name="gkd",
    title="GKD",
    recipe=_gkd,
    sees=Sees(score="no", reference=True, larger_model=True, own_attempts="some"),
    services=_LARGER,
    learning_rates=RATES,
    note="half of each group is the reference solution",
)
GKD_SELF: Final = Method(
    name="gkd-self",
    title="GKD, frozen self-teacher",
    recipe=_gkd_self,
    sees=Sees(score="no", reference=True, own_attempts="some"),
    services=_FROZEN,
    learning_rates=RATES,
    note="half of each group is the reference solution; the teacher is the initial student with "
    "the reference in view, in the place of a larger model",
)
SFT: Final = Method(
    name="sft",
    title="SFT",
    recipe=_sft,
    sees=Sees(score="no", reference=True, opinion="none", own_attempts="none"),
    learning_rates=RATES,
    note="one reference solution a problem, no attempts of its own",
)
KDRL: Final = Method(
    name="kdrl",
    title="KDRL",
    recipe=_kdrl,
    sees=Sees(score="reward", larger_model=True, opinion="sampled token"),
    services=_LARGER,
    learning_rates=RATES,
    note="GRPO with the k2 divergence to a larger model",
)
ON_POLICY_DISTILLATION: Final = Method(
    name="on-policy-distillation",
    title="On-policy distillation",
    recipe=_on_policy_distillation,
    sees=Sees(score="no", larger_model=True, opinion="sampled token"),
    services=_LARGER,
    learning_rates=RATES,
    note="reverse KL to a larger model at the sampled token",
)
HYBRID: Final = Method(
    name="hybrid",
    title="GRPO and SDPO",
    recipe=_hybrid,
    sees=Sees(score="both", trace=True, solution=True),
    services=SELF_TEACHER,
    learning_rates=RATES,
    note="nine tenths of the rewards' advantage, one of the self-teacher's",
)
