"""Is the gradient of DistIL exact, and what do its switches cost? Measured on enumerable policies.

    python benchmarks/exact_gradient.py      # a minute; writes results/exact_gradient.json

Everything in float64. A policy has free logits at every prefix; all its sequences are enumerated,
run through the trainer's own batch, head, credit and objective, and weighted by their probability.
The reference is the objective as stated, differentiated by central differences.
"""

import itertools
import json
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from preceptor_trainer.model.batch import TrainBatch, TrainRollout, collate
from preceptor_trainer.model.heads.dense import student_statistics
from preceptor_trainer.model.statistics import StudentStatistics
from preceptor_trainer.objectives import Advantages
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.objectives.staleness import StaleWeights
from preceptor_trainer.theory.enumeration import (
    Floats,
    PrefixTable,
    TinyWorld,
    Tokens,
    as_teacher,
    expected_gradient,
    finite_differences,
    log_softmax,
    rollout_losses,
    table_target,
)

RESULT = Path(__file__).parent / "results" / "exact_gradient.json"
SEEDS = range(5)
EXACT = DistIL(baseline="none")
FUTURE = DistIL(baseline="none", local=False)

TeacherOf = Callable[[Tokens], Floats]


# --- what the trainer does not offer -------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CostTimesReturn(DistIL):
    """The released mathematics variant: the mean of later costs multiplies the cost itself.

    No score function: a local term with other, positive weights.
    """

    def token_losses(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> torch.Tensor:
        """[B, T] cost times one plus the mean of later costs."""
        local_BT, _ = self.terms(stats, batch, advantages)
        return local_BT * (1 + advantages.advantage_BT)


# --- the objective as stated, in numpy -----------------------------------------------------------


def stated_objective(
    world: TinyWorld,
    teacher_of: TeacherOf,
    num_ids: int,
    *,
    minus_entropy: bool = False,
    counts: Callable[[Tokens], bool] = lambda _: True,
) -> Callable[[Floats], float]:
    """`sum_y p(y) sum_t CE(q_t, pi_t)` over the y that count, as a function of the logits."""
    sequences = world.sequences()
    counted_S = np.array([counts(y) for y in sequences])
    sequence_N = np.repeat(np.arange(len(sequences)), [len(y) for y in sequences])
    prefix_N = np.concatenate([world.prefixes(y) for y in sequences])
    token_N = np.concatenate(sequences)
    q_NV = np.concatenate([teacher_of(y)[world.prefixes(y)] for y in sequences])
    rank_NV = np.argsort(np.argsort(-q_NV, 1, kind="stable"), 1)
    head_NV = rank_NV < num_ids
    tail_N = np.where(head_NV, 0.0, 1.0).any(1) * (1 - np.where(head_NV, q_NV, 0).sum(1))
    entropy_N = -np.where(head_NV, xlogx(q_NV), 0).sum(1) - xlogx(tail_N)

    def value(logits_PV: Floats) -> float:
        logprobs_NV = log_softmax(logits_PV)[prefix_N]
        rest_N = np.where(head_NV, 0.0, np.exp(logprobs_NV)).sum(1)
        log_rest_N = np.log(np.where(tail_N > 0, rest_N, 1.0))
        cost_N = -np.where(head_NV, q_NV * logprobs_NV, 0).sum(1) - tail_N * log_rest_N
        if minus_entropy:
            cost_N = cost_N - entropy_N
        own_N = logprobs_NV[np.arange(len(token_N)), token_N]
        probability_S = np.exp(np.bincount(sequence_N, own_N))
        return float((probability_S * counted_S) @ np.bincount(sequence_N, cost_N))

    return value


def xlogx(x: Floats) -> Floats:
    """With 0 log 0 = 0."""
    return x * np.log(np.where(x > 0, x, 1.0))


# --- the measurements ----------------------------------------------------------------------------


def exogenous_feedback(
    seed: int, world: TinyWorld | None = None, num_ids: int = 3
) -> dict[str, tuple[float, float]]:
    """Relative error and cosine of each estimator's expectation, feedback held fixed."""
    world = world or TinyWorld()
    logits, teacher = world.random_logits(seed), world.random_teacher(100 + seed)
    groups = [[_rollout(world, y, i, teacher, num_ids)] for i, y in enumerate(world.sequences())]
    weights = world.probabilities(logits)
    stated = finite_differences(stated_objective(world, lambda _: teacher, num_ids), logits)
    kl_to_go = stated_objective(world, lambda _: teacher, num_ids, minus_entropy=True)
    variants = {
        "exact": (EXACT, stated),
        "exact, KL-to-go against its own objective": (
            DistIL(baseline="none", future="kl"),
            finite_differences(kl_to_go, logits),
        ),
        "KL-to-go": (DistIL(baseline="none", future="kl"), stated),
        "remaining": (DistIL(baseline="none", normaliser="remaining"), stated),
        "cost times return": (CostTimesReturn(baseline="none", normaliser="remaining"), stated),
        "local only": (DistIL(future="none"), stated),
    }
    return {
        name: _compare(expected_gradient(objective, logits, groups, weights), reference)
        for name, (objective, reference) in variants.items()
    }


def feedback_of_the_rollout(seed: int) -> dict[str, float]:
    """Relative error when feedback is pass or fail of the rollout itself."""
    world = TinyWorld(horizon=3)
    logits = world.random_logits(seed)
    passed, failed = world.random_teacher(100 + seed), world.random_teacher(200 + seed)

    def teacher_of(sequence: Tokens) -> Floats:
        return passed if _succeeds(sequence) else failed

    groups = [[_rollout(world, y, i, teacher_of(y), 3)] for i, y in enumerate(world.sequences())]
    weights = world.probabilities(logits)
    reference = finite_differences(stated_objective(world, teacher_of, 3), logits)
    return {
        credit: _compare(
            expected_gradient(DistIL(baseline="none", credit=credit), logits, groups, weights),
            reference,
        )[0]
        for credit in ("later", "all")
    }


def teachers_of_failures(seed: int) -> dict[str, float]:
    """Relative error where a rollout has a teacher only if it failed, groups of two enumerated.

    The objective is then `E_y[ 1[y failed] sum_t c_t ]`: whether there is a cost is an outcome too.
    """
    world = TinyWorld(horizon=3)
    logits, teacher = world.random_logits(seed), world.random_teacher(100 + seed)
    sequences, p = world.sequences(), world.probabilities(logits)

    def rollout(sequence: Tokens, group: int, place: int) -> TrainRollout:
        taught = _rollout(world, sequence, group, teacher, 3, place)
        return replace(taught, target=None) if _succeeds(sequence) else taught

    pairs = itertools.product(sequences, repeat=2)
    groups = [
        [rollout(y, n, place) for place, y in enumerate(pair)] for n, pair in enumerate(pairs)
    ]
    stated = stated_objective(world, lambda _: teacher, 3, counts=lambda y: not _succeeds(y))
    reference = finite_differences(stated, logits)
    return {
        f"{credit}, {baseline}": _compare(
            expected_gradient(
                DistIL(credit=credit, baseline=baseline), logits, groups, np.outer(p, p).ravel()
            ),
            reference,
        )[0]
        for credit in ("later", "all")
        for baseline in ("none", "loo")
    }


def baseline_bias(seed: int) -> dict[str, float]:
    """Relative change of the expected future term by a baseline, groups of two enumerated.

    With demonstrations each one's teacher has seen whether the other succeeded. The farther apart
    the teachers of success and failure, the larger the bias.
    """
    world = TinyWorld(horizon=3)
    logits, passed = world.random_logits(seed), world.random_logits(100 + seed)
    failed = world.random_logits(200 + seed)
    cases = {
        "fixed teacher": (passed, passed, False),
        "demonstrations, teachers close": (passed, 0.75 * passed + 0.25 * failed, True),
        "demonstrations, teachers unrelated": (passed, failed, True),
    }
    return {
        f"{name}, {rule}": error
        for name, (if_passed, if_failed, demonstrate) in cases.items()
        for rule, error in _baseline_errors(
            world, logits, *_pairs(world, logits, if_passed, if_failed, demonstrate)
        ).items()
    }


def _pairs(
    world: TinyWorld, logits: Floats, if_passed: Floats, if_failed: Floats, demonstrate: bool
) -> tuple[list[list[TrainRollout]], Floats]:
    """Every pair of rollouts and its probability."""
    passed, failed = as_teacher(if_passed), as_teacher(if_failed)
    sequences, p = world.sequences(), world.probabilities(logits)
    groups: list[list[TrainRollout]] = []
    for n, pair in enumerate(itertools.product(sequences, repeat=2)):
        teachers = [passed if _succeeds(sibling) else failed for sibling in reversed(pair)]
        uses = [{f"{n}-1"}, {f"{n}-0"}] if demonstrate else [set[str](), set[str]()]
        groups.append([_rollout(world, pair[i], n, teachers[i], 3, i, uses[i]) for i in range(2)])
    return groups, np.outer(p, p).ravel()


def partly_independent_siblings(seed: int) -> dict[str, float]:
    """Groups of three: two demonstrate to each other, the third has a teacher of its own."""
    world = TinyWorld(num_tokens=2, horizon=3)
    logits = world.random_logits(seed)
    passed, failed = world.random_teacher(100 + seed), world.random_teacher(200 + seed)
    sequences, p = world.sequences(), world.probabilities(logits)
    groups: list[list[TrainRollout]] = []
    for n, (a, b, c) in enumerate(itertools.product(sequences, repeat=3)):
        groups.append(
            [
                _rollout(world, a, n, passed if _succeeds(b) else failed, 2, 0, {f"{n}-1"}),
                _rollout(world, b, n, passed if _succeeds(a) else failed, 2, 1, {f"{n}-0"}),
                _rollout(world, c, n, passed, 2, 2),
            ]
        )
    return _baseline_errors(world, logits, groups, np.einsum("i,j,k->ijk", p, p, p).ravel())


def _baseline_errors(
    world: TinyWorld, logits: Floats, groups: list[list[TrainRollout]], weights: Floats
) -> dict[str, float]:
    reference = expected_gradient(FUTURE, logits, groups, weights)
    errors: dict[str, float] = {}
    for rule in ("loo", "loo_independent"):
        objective = DistIL(local=False, baseline=rule)
        gradient = expected_gradient(objective, logits, groups, weights)
        errors[rule] = _compare(gradient, reference)[0]
    return errors


STALE = {
    "as if sampled now": DistIL(baseline="none"),
    "local term only": DistIL(baseline="none", stale=StaleWeights(of="none")),
    "prefix": DistIL(baseline="none", stale=StaleWeights(cap=math.inf)),
    "prefix, cap 2": DistIL(baseline="none"),
    "prefix, cap 1": DistIL(baseline="none", stale=StaleWeights(cap=1.0)),
    "rollout": DistIL(baseline="none", stale=StaleWeights(of="rollout", cap=math.inf)),
    "rollout, cap 2": DistIL(baseline="none", stale=StaleWeights(of="rollout")),
}


def rollouts_of_an_older_policy(seed: int, drift: float = 0.3) -> dict[str, tuple[float, float]]:
    """Relative error of the expected gradient, and variance of one rollout's.

    The older policy's logits differ by normal noise of this size. The variance is over the squared
    length of the exact gradient.
    """
    world = TinyWorld()
    logits, teacher = world.random_logits(seed), world.random_teacher(100 + seed)
    older = logits + drift * world.random_logits(300 + seed)
    return of_an_older_policy(world, logits, older, teacher)


def of_an_older_policy(
    world: TinyWorld, logits: Floats, older: Floats, teacher: Floats
) -> dict[str, tuple[float, float]]:
    """The same for two given policies."""
    weights = world.probabilities(older)
    reference = finite_differences(stated_objective(world, lambda _: teacher, 3), logits)
    result: dict[str, tuple[float, float]] = {}
    for name, objective in STALE.items():
        rows = [
            replace(
                _rollout(world, y, i, teacher, 3),
                behaviour_logprobs=_logprobs(world, older, y),
                on_policy=name == "as if sampled now",
            )
            for i, y in enumerate(world.sequences())
        ]
        gradient_SPV = _row_gradients(objective, logits, rows)
        mean_PV = np.einsum("s,spv->pv", weights, gradient_SPV)
        spread_SPV = (gradient_SPV - mean_PV) ** 2
        variance = np.einsum("s,spv->", weights, spread_SPV) / (reference**2).sum()
        result[name] = (_compare(mean_PV, reference)[0], float(variance))
    return result


def older_pairs_with_a_baseline(seed: int, drift: float = 0.3) -> dict[str, float]:
    """Relative change of the expected gradient by a leave-one-out baseline; pairs enumerated."""
    world = TinyWorld(horizon=3)
    logits, teacher = world.random_logits(seed), world.random_teacher(100 + seed)
    older = logits + drift * world.random_logits(300 + seed)
    sequences, p = world.sequences(), world.probabilities(older)
    groups = [
        [
            replace(
                _rollout(world, y, n, teacher, 3, place),
                behaviour_logprobs=_logprobs(world, older, y),
                on_policy=False,
            )
            for place, y in enumerate(pair)
        ]
        for n, pair in enumerate(itertools.product(sequences, repeat=2))
    ]
    reference = finite_differences(stated_objective(world, lambda _: teacher, 3), logits)
    return {
        str(cap): _compare(
            expected_gradient(
                DistIL(stale=StaleWeights(cap=cap)), logits, groups, np.outer(p, p).ravel()
            ),
            reference,
        )[0]
        for cap in (math.inf, 2.0)
    }


def _logprobs(world: TinyWorld, logits: Floats, sequence: Tokens) -> np.ndarray:
    # In 32 bits, as a sampler reports them.
    return log_softmax(logits)[world.prefixes(sequence), list(sequence)].astype(np.float32)


def _row_gradients(objective: DistIL, logits: Floats, rows: list[TrainRollout]) -> Floats:
    """[rows, P, V]."""
    policy = PrefixTable(torch.tensor(logits).repeat(len(rows), 1, 1))
    rollout_losses(objective, policy, rows).sum().backward()
    assert policy.logits.grad is not None
    return policy.logits.grad.numpy()


def baseline_variance(seed: int, num_groups: int = 1000, group_size: int = 8) -> dict[str, float]:
    """Total variance of a group's future term, and its slope on the exact one; fixed teacher."""
    world = TinyWorld()
    logits, teacher = world.random_logits(seed), world.random_teacher(100 + seed)
    every = [[_rollout(world, y, i, teacher, 3)] for i, y in enumerate(world.sequences())]
    exact = expected_gradient(FUTURE, logits, every, world.probabilities(logits)).ravel()
    p = world.probabilities(logits)
    drawn = np.random.default_rng(seed).choice(len(p), (num_groups, group_size), p=p / p.sum())
    gradients = {
        "none": _group_gradients(world, FUTURE, logits, teacher, drawn),
        "loo": _group_gradients(world, DistIL(local=False), logits, teacher, drawn),
        "self-inclusive": _self_inclusive_gradients(world, logits, teacher, drawn),
    }
    result: dict[str, float] = {}
    for name, gradient_GD in gradients.items():
        projected = gradient_GD @ exact / (exact @ exact)
        result[f"variance, {name}"] = float(gradient_GD.var(0).sum())
        result[f"slope, {name}"] = float(projected.mean())
        result[f"slope's error, {name}"] = float(projected.std() / np.sqrt(num_groups))
    result["variance ratio"] = result["variance, none"] / result["variance, loo"]
    return result


def _group_gradients(
    world: TinyWorld, objective: DistIL, logits: Floats, teacher: Floats, drawn: np.ndarray
) -> Floats:
    """[groups, P * V]: mean gradient of each group's rollouts."""
    sequences, parts = world.sequences(), list[Floats]()
    for start in range(0, len(drawn), 64):
        rows = [
            _rollout(world, sequences[i], n, teacher, 3, place)
            for n, group in enumerate(drawn[start : start + 64])
            for place, i in enumerate(group)
        ]
        policy = PrefixTable(torch.tensor(logits).repeat(len(rows), 1, 1))
        rollout_losses(objective, policy, rows).sum().backward()
        assert policy.logits.grad is not None
        per_row = policy.logits.grad.numpy().reshape(-1, drawn.shape[1], logits.size)
        parts.append(per_row.mean(1))
    return np.concatenate(parts)


def _self_inclusive_gradients(
    world: TinyWorld, logits: Floats, teacher: Floats, drawn: np.ndarray
) -> Floats:
    """The same with each rollout in its own baseline: what the trainer does not offer."""
    sequences = world.sequences()
    rows = [_rollout(world, y, i, teacher, 3) for i, y in enumerate(sequences)]
    batch = collate(rows)
    policy = PrefixTable(torch.tensor(logits).repeat(len(rows), 1, 1))
    stats = student_statistics(policy, batch, FUTURE.needs)
    (advantages,) = FUTURE.advantages([stats], [batch])
    score_STD = torch.stack(
        [
            torch.autograd.grad(
                stats.sampled_logprobs_BT[:, t].sum(), policy.logits, retain_graph=True
            )[0].flatten(1)
            for t in range(world.horizon)
        ],
        1,
    ).numpy()
    future_GRT = advantages.advantage_BT.numpy()[drawn]
    centred_GRT = future_GRT - future_GRT.mean(1, keepdims=True)
    return np.stack(
        [
            np.einsum("rt,rtd->d", weights, score_STD[group]) / len(group)
            for weights, group in zip(centred_GRT, drawn, strict=True)
        ]
    )


def _rollout(
    world: TinyWorld,
    sequence: Tokens,
    group: int,
    teacher: Floats,
    num_ids: int,
    place: int = 0,
    uses: set[str] | None = None,
) -> TrainRollout:
    name = f"{group}-{place}"
    return TrainRollout(
        rollout_id=name,
        group=group,
        prompt_ids=[0],
        response_ids=sequence,
        target=table_target(world, name, sequence, teacher, num_ids),
        uses=frozenset(uses or ()),
    )


def _succeeds(sequence: Tokens) -> bool:
    return sum(sequence) % 2 == 0


def _compare(gradient: Floats, reference: Floats) -> tuple[float, float]:
    error = np.linalg.norm(gradient - reference) / np.linalg.norm(reference)
    cosine = (gradient * reference).sum() / np.linalg.norm(gradient) / np.linalg.norm(reference)
    return float(error), float(cosine)


# --- the report ----------------------------------------------------------------------------------


def measure() -> dict[str, object]:
    """All measurements over the committed seeds."""
    stopping = TinyWorld(stop=0)
    return {
        "exogenous feedback (relative error, cosine)": [exogenous_feedback(s) for s in SEEDS],
        "the same, a stop token and top-2 with tail": [
            exogenous_feedback(s, stopping, num_ids=2) for s in SEEDS
        ],
        "feedback of the rollout itself (relative error)": [
            feedback_of_the_rollout(s) for s in SEEDS
        ],
        "teachers of failures alone (relative error)": [teachers_of_failures(s) for s in SEEDS],
        "bias of baselines, groups of 2 (relative)": [baseline_bias(s) for s in SEEDS],
        "bias of baselines, groups of 3 (relative)": [
            partly_independent_siblings(s) for s in SEEDS
        ],
        "baselines, groups of 8, fixed teacher": [baseline_variance(s) for s in SEEDS],
        **{
            f"rollouts of an older policy, logits {drift} off (relative error, variance)": [
                rollouts_of_an_older_policy(s, drift) for s in SEEDS
            ]
            for drift in (0.1, 0.3, 1.0)
        },
        "the same with a baseline, groups of 2, by cap (relative error)": [
            older_pairs_with_a_baseline(s) for s in SEEDS
        ],
    }


def show(results: dict[str, object], console: Console) -> None:
    """One table per measurement, a column per seed."""
    for title, per_seed in results.items():
        assert isinstance(per_seed, list)
        table = Table("", *[f"seed {s}" for s in SEEDS], title=title, title_justify="left")
        for name in per_seed[0]:
            table.add_row(name, *[_cell(row[name]) for row in per_seed])
        console.print(table)


def _cell(value: float | tuple[float, float]) -> str:
    if isinstance(value, tuple):
        return f"{value[0]:.1e}  {value[1]:.4f}"
    return f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.3f}"


def main() -> None:
    """Measure, print, write."""
    results = measure()
    show(results, Console(width=140))
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"versions": versions, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
