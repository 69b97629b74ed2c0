"""Problems: a hidden function, a few shown pairs, and hidden cases for grading.

    >>> problem = sample_problems("train", count=1, seed=7)[0]
    >>> problem.messages
    ({'role': 'user', 'content': '[3,1,2]->[1,2,3]\\n[5,0]->[0,5]\\n[7,7,1]->[1,7,7]'},)

A problem is solved when the expression gives the expected value on every shown and hidden case.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from preceptor_clients.contract.comparison import compact
from preceptor_clients.contract.execution import (
    CaseReport,
    ExecutionCase,
    ExecutionReport,
    ExecutionTask,
    Visibility,
    ended_case,
    valued_case,
)
from preceptor_trainer.tasks.programming_by_example.behaviour import (
    Split,
    Value,
    compile_expression,
)
from preceptor_trainer.tasks.programming_by_example.language import Program
from preceptor_trainer.tasks.programming_by_example.universe import (
    MAX_OUTPUT_CHARS,
    Behaviour,
    function_of,
    load_universe,
)

NUM_SHOWN = 3
NUM_HIDDEN = 6
NUM_PLAIN = 7  # cases on five digits: those shown, and four of the hidden ones
FEATURE_SHARES = {1: 0.06, 2: 0.88, 3: 0.06}
FOLD_SHARE = 0.03  # a fold shows only three integers, so it is the hardest to infer
MAX_REPEATS = 8  # problems of one behaviour in a sample; only single features need any
ISOLATION_IN_PROCESS = "in-process evaluation of generated text"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem with its cases; `reference` is one of many right answers."""

    id: str
    shown: tuple[tuple[list[int], Value], ...]
    hidden: tuple[tuple[list[int], Value], ...]
    reference: str
    program: Program
    behaviour: Behaviour

    @property
    def messages(self) -> tuple[dict[str, str], ...]:
        """The chat that the student answers."""
        lines = [f"{compact(given)}->{compact(wanted)}" for given, wanted in self.shown]
        return ({"role": "user", "content": "\n".join(lines)},)

    @property
    def task(self) -> ExecutionTask:
        """The executor's task."""
        return ExecutionTask(
            shown=tuple(ExecutionCase(input=i, expected=e) for i, e in self.shown),  # type: ignore[arg-type] # list[int] is JSON
            hidden=tuple(ExecutionCase(input=i, expected=e) for i, e in self.hidden),  # type: ignore[arg-type] # list[int] is JSON
        )

    @property
    def payload(self) -> dict[str, Any]:
        """The task as the JSON object of a feedback query's payload."""
        return self.task.model_dump(mode="json")


def sample_problems(split: Split, *, count: int, seed: int) -> list[Problem]:
    """Draws `count` problems of a split, reproducibly, from as many behaviours as there are.

    Raises:
        ValueError: The split has too few behaviours for `count`.
    """
    rng = random.Random(f"{split}:{seed}")
    chosen = _sample_behaviours(split, count, rng)
    problems: list[Problem] = []
    for behaviour in chosen:
        problem = None
        while problem is None:
            problem = draw_problem(behaviour, rng)
        problems.append(problem)
    return problems


def stream_problems(
    split: Split, rng: random.Random, shares: Mapping[int, float] = FEATURE_SHARES
) -> Iterator[Problem]:
    """Yields problems forever; behaviours repeat, with other inputs."""
    while True:
        behaviour = draw_behaviour(split, rng, shares)
        problem = draw_problem(behaviour, rng)
        if problem is not None:
            yield problem


def draw_behaviour(
    split: Split, rng: random.Random, shares: Mapping[int, float] = FEATURE_SHARES
) -> Behaviour:
    """Draws the number of features by `shares`, fold or list, then a behaviour uniformly."""
    num_features = rng.choices(list(shares), weights=list(shares.values()))[0]
    return rng.choice(_askable(split, num_features, rng.random() < FOLD_SHARE))


def _sample_behaviours(split: Split, count: int, rng: random.Random) -> list[Behaviour]:
    """Behaviours drawn by their shares; one repeats only after all of its kind occurred as
    often."""
    draws = Counter(
        (
            rng.choices(list(FEATURE_SHARES), weights=list(FEATURE_SHARES.values()))[0],
            rng.random() < FOLD_SHARE,
        )
        for _ in range(count)
    )
    chosen: list[Behaviour] = []
    for (num_features, is_fold), wanted in sorted(draws.items()):
        available = _askable(split, num_features, is_fold)
        if wanted > MAX_REPEATS * len(available):
            raise ValueError(f"count: {split} has too few behaviours for {count} problems")
        for start in range(0, wanted, len(available)):
            chosen += rng.sample(available, min(wanted - start, len(available)))
    rng.shuffle(chosen)
    return chosen


@cache
def _askable(split: Split, num_features: int, is_fold: bool) -> list[Behaviour]:
    """Behaviours of one kind; lists where a split has no fold of that size."""
    alike = [
        behaviour
        for behaviour in load_universe().in_split(split)
        if behaviour.num_features == num_features
        and behaviour.is_fold == is_fold
        and _can_be_asked(behaviour)
    ]
    return alike if alike or not is_fold else _askable(split, num_features, False)


def _can_be_asked(behaviour: Behaviour) -> bool:
    """True when a few random inputs give a problem (a filter may leave most lists empty)."""
    rng = random.Random("can be asked")
    return any(draw_problem(behaviour, rng) is not None for _ in range(4))


def draw_problem(behaviour: Behaviour, rng: random.Random) -> Problem | None:
    """Draws the cases of a problem; None when they would not determine the function."""
    program = behaviour.programs[0]
    cases = _draw_cases(behaviour.texts[0], rng)
    if cases is None:
        return None
    shown, hidden = tuple(cases[:NUM_SHOWN]), tuple(cases[NUM_SHOWN:])
    if len({compact(wanted) for _, wanted in shown}) < 2 or all(g == w for g, w in shown):
        return None
    digest = hashlib.sha256(repr((behaviour.values, cases)).encode()).hexdigest()[:16]
    return Problem(
        id=f"pbe-{digest}",
        shown=shown,
        hidden=hidden,
        reference=behaviour.texts[0],
        program=program,
        behaviour=behaviour,
    )


def _draw_cases(text: str, rng: random.Random) -> list[tuple[list[int], Value]] | None:
    """Different inputs on which the program is defined; None when too many draws fail."""
    function = function_of(text)
    cases: dict[tuple[int, ...], Value] = {}
    for attempt in range(40):
        given = _draw_plain_input(rng) if len(cases) < NUM_PLAIN else _draw_odd_input(rng)
        try:
            wanted = function(list(given))
        except (IndexError, ValueError):
            continue
        is_empty = wanted == [] and (len(cases) < NUM_SHOWN or attempt < 20)
        if given not in cases and not is_empty and len(compact(wanted)) <= MAX_OUTPUT_CHARS:
            cases[given] = wanted
        if len(cases) == NUM_SHOWN + NUM_HIDDEN:
            return [(list(given), wanted) for given, wanted in cases.items()]
    return None


def _draw_plain_input(rng: random.Random) -> tuple[int, ...]:
    """Five digits: of equal length, so that a small student can align inputs and outputs."""
    return tuple(rng.randint(0, 9) for _ in range(5))


def _draw_odd_input(rng: random.Random) -> tuple[int, ...]:
    """Up to six integers, some of them negative or large."""
    return tuple(
        rng.randint(-9, 20) if rng.random() < 0.15 else rng.randint(0, 9)
        for _ in range(rng.randint(0, 6))
    )


def evaluate(text: str, problem: Problem) -> ExecutionReport:
    """Runs an expression in this process; only for texts of the own generator or model.

    Names are restricted, time and memory are not. Use the executor service for untrusted programs.
    """
    try:
        function = (
            function_of(text) if text in load_universe().by_text else compile_expression(text)
        )
    except (SyntaxError, ValueError) as error:
        return ExecutionReport(program_error=last_line(error), isolation=ISOLATION_IN_PROCESS)
    reports = [
        _case_report(visibility, case, function) for visibility, case in problem.task.cases()
    ]
    return ExecutionReport(cases=tuple(reports), isolation=ISOLATION_IN_PROCESS)


def _case_report(visibility: Visibility, case: ExecutionCase, function: Any) -> CaseReport:
    given: Any = case.input
    try:
        value = function(list(given))
    except Exception as error:
        # the failure of the program is the result
        return ended_case(visibility, case, "exception", error=last_line(error))
    return valued_case(visibility, case, value)


def last_line(error: BaseException) -> str:
    """The last line of a traceback; a SyntaxError without its position."""
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {message}"
