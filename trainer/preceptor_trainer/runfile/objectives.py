"""Objectives by name, with options from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, cast

from preceptor_trainer.kit.options import dataclass_of
from preceptor_trainer.objectives import Objective
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.objectives.gkd import GKD
from preceptor_trainer.objectives.grpo import GRPO
from preceptor_trainer.objectives.hybrid import Hybrid
from preceptor_trainer.objectives.kdrl import KDRL
from preceptor_trainer.objectives.on_policy_distillation import OnPolicyDistillation
from preceptor_trainer.objectives.opsd import OPSD
from preceptor_trainer.objectives.sdpo import SDPO
from preceptor_trainer.objectives.sft import SFT
from preceptor_trainer.objectives.trrd import TRRD


@dataclass(frozen=True, kw_only=True)
class Named:
    """One objective that a file may name."""

    cls: Any
    learns_from: Literal["teacher", "rewards", "both", "references"]
    """`both`: rewards decide too, so that there must be a source of them."""


OBJECTIVES: Final[Mapping[str, Named]] = {
    "distil": Named(cls=DistIL, learns_from="teacher"),
    "sdpo": Named(cls=SDPO, learns_from="teacher"),
    "opsd": Named(cls=OPSD, learns_from="teacher"),
    "gkd": Named(cls=GKD, learns_from="teacher"),
    "on-policy-distillation": Named(cls=OnPolicyDistillation, learns_from="teacher"),
    "trrd": Named(cls=TRRD, learns_from="both"),
    "kdrl": Named(cls=KDRL, learns_from="both"),
    "hybrid": Named(cls=Hybrid, learns_from="both"),
    "grpo": Named(cls=GRPO, learns_from="rewards"),
    "sft": Named(cls=SFT, learns_from="references"),
}
"""By the name in `[objective] use`."""


def objective_of(name: str, options: Mapping[str, Any]) -> Objective:
    """The objective `name` with these fields.

    Raises:
        ValueError: a field is unknown or wrong; it is named.
    """
    return cast("Objective", dataclass_of(OBJECTIVES[name].cls, options, "options"))


def takes(name: str, option: str) -> bool:
    """Whether the objective `name` has this field."""
    return option in {field.name for field in fields(OBJECTIVES[name].cls)}
