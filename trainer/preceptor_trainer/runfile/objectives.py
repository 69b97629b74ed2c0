"""Objectives by name, with options from a file."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final, Literal, Union, cast, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from preceptor_clients.contract.sections import nearest
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
    return cast("Objective", _made(OBJECTIVES[name].cls, options, "options"))


def _made(cls: Any, given: Mapping[str, Any], path: str) -> Any:
    """A dataclass of ours from a table; tables in it are the dataclasses of its fields."""
    hints = get_type_hints(cls)
    known = [field.name for field in fields(cls) if field.init]
    values: dict[str, Any] = {}
    for key, value in given.items():
        where = f"{path}.{key}"
        if key not in known:
            raise ValueError(f"{where}: is unknown; {nearest(key, known)}")
        values[key] = _value(hints[key], value, where)
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _value(hint: Any, value: Any, where: str) -> Any:
    inner = [one for one in _alternatives(hint) if is_dataclass(one)]
    if isinstance(value, Mapping) and inner:
        return _made(inner[0], cast("Mapping[str, Any]", value), where)
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise ValueError(f"{where}: {value!r}: {reason[:1].lower()}{reason[1:]}") from None


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
