"""The small language of the task: Python expressions over a list `x`.

A program is a pipeline of features applied to `x`: a comprehension (map, filter, or both), an
order or slice, and a fold to one integer. A program has at most three features, so that a few
input/output pairs nearly determine it, and its text is at most `MAX_CHARS` long. A slice is taken
of `x` or of a sorted `x`, not of a filtered list: five digits would not determine it.

    >>> Program(stages=(Comp(map="v*2", where="v>1"), Order("[::-1]"))).text()
    '[v*2 for v in x if v>1][::-1]'

Left out on purpose: loops, conditionals, two lists, strings. The task is about feedback, not about
the language.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

MAX_CHARS = 36

MAPS = (
    *(f"v+{c}" for c in range(1, 13)),
    *(f"v-{c}" for c in range(1, 10)),
    *(f"{c}-v" for c in range(1, 13)),
    *(f"v*{a}" for a in range(2, 6)),
    *(f"v*{a}+{c}" for a in (2, 3) for c in range(1, 10)),
    *(f"v*{a}-{c}" for a in (2, 3) for c in range(1, 10)),
    "-v",
    "v*v",
    "v%3",
    "v//2",
)
FILTERS = (
    *(f"v>{c}" for c in range(1, 8)),
    *(f"v<{c}" for c in range(2, 9)),
    *(f"{low}<v<{high}" for low in range(1, 5) for high in range(low + 4, 9)),
    "v%2",
    "v%2<1",
    "v%3",
    "v%3<1",
)
"""Many constants: of a few hundred pairs a student would memorise which are held out."""
SLICES = ("[1:]", "[2:]", "[:-1]", "[:2]", "[:3]", "[-2:]", "[::2]")
REORDERS = ("[::-1]", "sorted", "sorted-down")
ORDERS = (*SLICES, *REORDERS)
FOLDS = ("sum", "max", "min", "len")


def _bare(inner: str) -> str:
    """A comprehension without its brackets, as the only argument of a call."""
    is_comprehension = inner.startswith("[") and "][" not in inner
    return inner[1:-1] if is_comprehension else inner


@dataclass(frozen=True)
class Comp:
    """`[map for v in E if where]`; `map` is `v` and `where` empty when unused."""

    map: str = "v"
    where: str = ""

    def wrap(self, inner: str) -> str:
        condition = f" if {self.where}" if self.where else ""
        return f"[{self.map} for v in {inner}{condition}]"


@dataclass(frozen=True)
class Order:
    """A slice, a reversal or a sort."""

    name: str

    def wrap(self, inner: str) -> str:
        match self.name:
            case "sorted":
                return f"sorted({_bare(inner)})"
            case "sorted-down":
                return f"sorted({_bare(inner)})[::-1]"
            case subscript:
                return f"{inner}{subscript}"


@dataclass(frozen=True)
class Fold:
    """A list to one integer."""

    name: str

    def wrap(self, inner: str) -> str:
        return f"{self.name}({inner if self.name == 'len' else _bare(inner)})"


Stage = Comp | Order | Fold


@dataclass(frozen=True)
class Program:
    """Stages from the innermost outwards; only the last may be a fold."""

    stages: tuple[Stage, ...]

    def text(self) -> str:
        expression = "x"
        for stage in self.stages:
            expression = stage.wrap(expression)
        return expression

    def num_features(self) -> int:
        """Number of independent choices in this program."""
        return sum(
            (stage.map != "v") + (stage.where != "") if isinstance(stage, Comp) else 1
            for stage in self.stages
        )


def enumerate_programs() -> Iterator[Program]:
    """Yields every program of at most three features that fits `MAX_CHARS`."""
    comps = [Comp(map=m, where=w) for m, w in product(("v", *MAPS), ("", *FILTERS))][1:]
    plain = [comp for comp in comps if comp.map == "v" or not comp.where]
    orders = [Order(name) for name in ORDERS]
    reorders = [Order(name) for name in REORDERS]
    slices = [Order(name) for name in SLICES]
    singles: list[tuple[Stage, ...]] = [(stage,) for stage in (*orders, *plain)]
    lists: list[tuple[Stage, ...]] = [
        *singles,
        *((comp,) for comp in comps if comp not in plain),
        *product(reorders, slices),
        *product(comps, reorders),
        *product((*slices, Order("[::-1]")), plain),
        # the same behaviours in other forms, for demonstrations
        *product((comp for comp in plain if not comp.where), slices),
    ]
    folds: list[tuple[Stage, ...]] = [
        (*stages, Fold(name)) for stages in ((), *singles) for name in FOLDS
    ]
    for stages in (*lists, *folds):
        program = Program(stages)
        if len(program.text()) <= MAX_CHARS:
            yield program


def _near_constant(term: str, choices: tuple[str, ...], rng: random.Random) -> str:
    """Another term of the same form with another constant, where there is one."""
    form = [
        c for c in choices if c != term and c.rstrip("0123456789)") == term.rstrip("0123456789)")
    ]
    return rng.choice(form or [c for c in choices if c != term])


def _other(term: str, choices: tuple[str, ...], rng: random.Random) -> str:
    return rng.choice([choice for choice in choices if choice != term])


def mutate(program: Program, rng: random.Random) -> Program:
    """Returns a near miss: one feature changed, dropped or added."""
    stages = list(program.stages)
    index = rng.randrange(len(stages))
    stage = stages[index]
    kind = rng.random()
    if kind < 0.2 and len(stages) > 1:
        del stages[index]
    elif kind < 0.3 and not isinstance(stages[-1], Fold):
        stages.append(
            Fold(rng.choice(FOLDS)) if rng.random() < 0.3 else Order(rng.choice(REORDERS))
        )
    elif isinstance(stage, Comp):
        stages[index] = _mutate_comp(stage, rng)
    elif isinstance(stage, Order):
        stages[index] = Order(rng.choice([name for name in ORDERS if name != stage.name]))
    else:
        stages[index] = Fold(rng.choice([name for name in FOLDS if name != stage.name]))
    if stages == [Comp()]:
        stages = [Order(rng.choice(ORDERS))]
    return Program(tuple(stages))


def _mutate_comp(comp: Comp, rng: random.Random) -> Comp:
    draw = rng.random()
    if draw < 0.25:
        if comp.where and comp.map != "v":
            return replace(comp, where="") if rng.random() < 0.6 else replace(comp, map="v")
        return (
            replace(comp, where=comp.where or rng.choice(FILTERS))
            if comp.map != "v"
            else (replace(comp, map=rng.choice(MAPS)))
        )
    pick = _near_constant if draw < 0.8 else _other
    if comp.where and (comp.map == "v" or rng.random() < 0.5):
        return replace(comp, where=pick(comp.where, FILTERS, rng))
    return replace(comp, map=pick(comp.map, MAPS, rng))
