"""Every behaviour of the language, with its program texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from preceptor_trainer.tasks.programming_by_example.behaviour import (
    PROBES,
    RAISES,
    Split,
    Value,
    behaviour_of,
    compile_expression,
    split_of,
)
from preceptor_trainer.tasks.programming_by_example.language import (
    Fold,
    Program,
    enumerate_programs,
)

MAX_OUTPUT_CHARS = 26  # prompts stay short: the student reads bytes


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """One function: its programs from the shortest on, and its split."""

    values: tuple[str, ...]
    programs: tuple[Program, ...]
    texts: tuple[str, ...]
    split: Split
    num_features: int

    @property
    def is_fold(self) -> bool:
        """True for a function to an integer."""
        return isinstance(self.programs[0].stages[-1], Fold)


@dataclass(frozen=True, kw_only=True)
class Universe:
    """All behaviours, and the behaviour of every program text of the language."""

    behaviours: tuple[Behaviour, ...]
    by_text: dict[str, Behaviour]

    def in_split(self, split: Split) -> list[Behaviour]:
        return [behaviour for behaviour in self.behaviours if behaviour.split == split]


@cache
def load_universe() -> Universe:
    """Enumerates the language once per process (a few seconds)."""
    groups: dict[tuple[str, ...], dict[str, Program]] = {}
    for program in enumerate_programs():
        text = program.text()
        groups.setdefault(behaviour_of(text), {}).setdefault(text, program)
    behaviours = tuple(
        _behaviour(values, programs)
        for values, programs in groups.items()
        if _is_worth_asking(values)
    )
    return Universe(
        behaviours=behaviours,
        by_text={text: behaviour for behaviour in behaviours for text in behaviour.texts},
    )


def _behaviour(values: tuple[str, ...], programs: dict[str, Program]) -> Behaviour:
    texts = sorted(programs, key=lambda text: (programs[text].num_features(), len(text), text))
    return Behaviour(
        values=values,
        programs=tuple(programs[text] for text in texts),
        texts=tuple(texts),
        split=split_of(values),
        num_features=programs[texts[0]].num_features(),
    )


def _is_worth_asking(values: tuple[str, ...]) -> bool:
    """False for constants, near-identities, and programs that mostly raise or have long outputs."""
    identity = tuple(repr(list(probe)).replace(" ", "") for probe in PROBES)
    defined = [value for value in values if value != RAISES]
    return (
        len(defined) >= 24
        and len(set(defined)) >= 5
        and values != identity
        and max(len(value) for value in defined) <= MAX_OUTPUT_CHARS
    )


@cache
def function_of(text: str) -> Callable[[list[int]], Value]:
    """The compiled program, cached, since the generator runs the same few thousand texts."""
    return compile_expression(text)
