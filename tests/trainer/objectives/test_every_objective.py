"""What every objective must do, on policies small enough to enumerate.

Each case states its token loss a second time, in numpy and from the formula in the paper, with the
policy that was sampled (`at`) kept apart from the one that is differentiated (`p`).

Dimensions: V tokens, P prefixes.
"""

import importlib.util
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from preceptor_trainer.learner.learner import Learner, OptimiserConfig
from preceptor_trainer.learner.shares import shares_of
from preceptor_trainer.model.batch import TrainRollout, collate, make_batches
from preceptor_trainer.model.heads.dense import dense_head, student_statistics
from preceptor_trainer.model.heads.head import Head
from preceptor_trainer.model.heads.lean import LeanHead
from preceptor_trainer.objectives import Objective, silent_in, weighs_gains
from preceptor_trainer.objectives.clipping import Clip
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.objectives.divergences import Divergence
from preceptor_trainer.objectives.gkd import GKD
from preceptor_trainer.objectives.grpo import GRPO
from preceptor_trainer.objectives.hybrid import Hybrid
from preceptor_trainer.objectives.kdrl import KDRL
from preceptor_trainer.objectives.metrics import Mean
from preceptor_trainer.objectives.on_policy_distillation import OnPolicyDistillation
from preceptor_trainer.objectives.opsd import OPSD
from preceptor_trainer.objectives.sdpo import SDPO
from preceptor_trainer.objectives.sft import SFT
from preceptor_trainer.objectives.trrd import TRRD
from preceptor_trainer.theory.enumeration import (
    Floats,
    PrefixTable,
    TinyWorld,
    as_teacher,
    expected_gradient,
    finite_differences,
    log_softmax,
    table_target,
)

pytestmark = pytest.mark.usefixtures("one_thread")

WORLD = TinyWorld(num_tokens=3, horizon=2)
NUM_CANDIDATES = 2


@dataclass(frozen=True, kw_only=True)
class Token:
    """One position: student now and when it was sampled, expert, token, advantage."""

    p: Floats
    at: Floats
    q: Floats
    a: int
    advantage: float

    def bucketed(self, rest: str, expert_ids: int | None = None) -> tuple[Floats, Floats]:
        """Student and expert on the best ids of one of them, and the rest.

        The ids are the sampled student's two best, or as many of the expert's as are given.
        """
        belief, num_ids = (self.at, NUM_CANDIDATES) if expert_ids is None else (self.q, expert_ids)
        ids = np.argsort(-belief, kind="stable")[:num_ids]
        p, q = self.p[ids], self.q[ids]
        if rest == "renormalise":
            return p / p.sum(), q / q.sum()
        return np.append(p, 1 - p.sum()), np.append(q, 1 - q.sum())


def kl(p: Floats, q: Floats) -> float:
    return float((p * np.log(p / q)).sum())


def jsd(p: Floats, q: Floats, alpha: float) -> float:
    m = (1 - alpha) * p + alpha * q
    return (1 - alpha) * kl(p, m) + alpha * kl(q, m)


def bounded(p: Floats, q: Floats, bound: float) -> float:
    return float(np.minimum(q * np.log(q / p), bound).sum())


def bounded_jsd(p: Floats, q: Floats, alpha: float, bound: float) -> float:
    """Each token's share of both divergences is bounded, before the sum over tokens."""
    m = (1 - alpha) * p + alpha * q
    shares = (1 - alpha) * p * np.log(p / m) + alpha * q * np.log(q / m)
    return float(np.minimum(shares, bound).sum())


def score(x: Token) -> float:
    return float(np.log(x.at[x.a] / x.q[x.a]) * np.log(x.p[x.a]))


def surrogate(log_ratio: float, advantage: float, low: float = 0.2, high: float = 0.2) -> float:
    ratio = np.exp(log_ratio)
    return -min(ratio * advantage, np.clip(ratio, 1 - low, 1 + high) * advantage)


def grpo(x: Token) -> float:
    return surrogate(np.log(x.p[x.a] / x.at[x.a]), x.advantage)


def trrd(x: Token) -> float:
    to_old, to_expert = np.log(x.p[x.a] / x.at[x.a]), np.log(x.p[x.a] / x.q[x.a])
    return surrogate(0.5 * to_old + 0.5 * np.clip(to_expert, -1, 1), x.advantage, high=0.28)


def k2(x: Token) -> float:
    return 0.5 * float(np.log(x.p[x.a] / x.q[x.a])) ** 2


def hard(x: Token) -> float:
    return -float(np.log(x.p[x.a]))


def soft(x: Token) -> float:
    return -float((x.q * np.log(x.p)).sum())


def skewed(p: Floats, q: Floats, skew: float) -> float:
    return kl(q, skew * q + (1 - skew) * p)


def example(name: str) -> ModuleType:
    """A file of the documentation, which no package holds."""
    path = Path(__file__).parents[3] / "docs" / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def student(alpha: float, rest: str = "tail") -> Divergence:
    return Divergence(alpha=alpha, support="student", num_ids=NUM_CANDIDATES, rest=rest)  # type: ignore[arg-type]


Case: TypeAlias = tuple[Objective, Callable[[Token], float]]

# The expert says its best `num_ids` of three tokens. With one of them the rest holds two tokens in
# one, with two the renormalised support has something left to compare.
OF_THE_EXPERT: dict[str, tuple[Case, int]] = {
    f"{objective.__name__}, {name}, expert's {num_ids}, {rest}": (
        (
            objective(divergence=Divergence(alpha=alpha, rest=rest, **bound)),
            lambda x, loss=loss, rest=rest, num_ids=num_ids: loss(*x.bucketed(rest, num_ids)),
        ),
        num_ids,
    )
    for objective, name, alpha, bound, loss in (
        (SDPO, "forward", 0.0, {}, lambda p, q: kl(q, p)),
        (SDPO, "reverse", 1.0, {}, kl),
        (GKD, "JSD .3", 0.3, {}, lambda p, q: jsd(p, q, 0.3)),
        (OPSD, "forward", 0.0, {"term_clip": 0.05}, lambda p, q: bounded(p, q, 0.05)),
        (OPSD, "JSD", 0.5, {"term_clip": 0.14}, lambda p, q: bounded_jsd(p, q, 0.5, 0.14)),
    )
    for rest, num_ids in (("tail", 1), ("tail", 2), ("renormalise", 2))
}
NUM_IDS = {name: num_ids for name, (_, num_ids) in OF_THE_EXPERT.items()}

STATED: dict[str, Case] = {
    "DistIL, local": (DistIL(future="none"), soft),
    "SDPO, forward": (SDPO(divergence=Divergence(alpha=0.0)), lambda x: kl(x.q, x.p)),
    "SDPO, reverse": (SDPO(divergence=Divergence(alpha=1.0)), lambda x: kl(x.p, x.q)),
    "SDPO, JSD .3": (SDPO(divergence=Divergence(alpha=0.3)), lambda x: jsd(x.p, x.q, 0.3)),
    "SDPO, reverse, student's ids": (
        SDPO(divergence=student(1.0)),
        lambda x: kl(*x.bucketed("tail")),
    ),
    "SDPO, reverse, renormalised": (
        SDPO(divergence=student(1.0, "renormalise")),
        lambda x: kl(*x.bucketed("renormalise")),
    ),
    "SDPO, JSD, student's ids": (
        SDPO(divergence=student(0.5)),
        lambda x: jsd(*x.bucketed("tail"), 0.5),
    ),
    "SDPO, sampled": (SDPO(form="sampled"), score),
    "OPSD": (OPSD(), lambda x: bounded(x.p, x.q, 0.05)),
    "OPSD, JSD": (
        OPSD(divergence=Divergence(alpha=0.5, term_clip=0.1)),
        lambda x: bounded_jsd(x.p, x.q, 0.5, 0.1),
    ),
    "GKD": (GKD(), lambda x: jsd(x.p, x.q, 0.5)),
    "on-policy distillation": (OnPolicyDistillation(), score),
    "GRPO": (GRPO(), grpo),
    "DAPO": (
        GRPO.dapo(),
        lambda x: surrogate(np.log(x.p[x.a] / x.at[x.a]), x.advantage, 0.2, 0.28),
    ),
    "TRRD": (TRRD(), trrd),
    "KDRL": (KDRL(beta=0.5), lambda x: grpo(x) + 0.5 * k2(x)),
    "SFT": (SFT(), hard),
    "offline distillation": (SFT(soft=1.0), soft),
    "SFT, mixed": (SFT(soft=0.25), lambda x: 0.75 * hard(x) + 0.25 * soft(x)),
    "hybrid": (
        Hybrid(reward=GRPO(), distillation=SDPO(divergence=student(1.0)), share=0.9),
        lambda x: 0.9 * grpo(x) + 0.1 * kl(*x.bucketed("tail")),
    ),
    "skewed KL, of the documentation": (
        example("skewed_kl").SkewedKL(skew=0.2),
        lambda x: skewed(x.p, x.q, 0.2),
    ),
} | {name: case for name, (case, _) in OF_THE_EXPERT.items()}
OBJECTIVES = {name: objective for name, (objective, _) in STATED.items()} | {"DistIL": DistIL()}

every_objective = pytest.mark.parametrize("name", OBJECTIVES)
every_stated = pytest.mark.parametrize("name", STATED)


def make_rollout(
    objective: Objective,
    rollout_id: str,
    sequence: tuple[int, ...],
    *,
    logits: Floats,
    teacher: Floats,
    reward: float = 0.0,
    world: TinyWorld = WORLD,
    num_ids: int | None = None,
    **fields,
) -> TrainRollout:
    """A response with everything that any objective may want to know about it.

    The expert's own ids are its best `num_ids`; None is all of them.
    """
    target = table_target(world, rollout_id, sequence, teacher, num_ids or world.num_tokens)
    prefixes = world.prefixes(sequence)
    candidates = np.argsort(-logits[prefixes], axis=1, kind="stable")[:, :NUM_CANDIDATES]
    logprobs = np.log(np.take_along_axis(teacher[prefixes], candidates, 1)).astype(np.float32)
    component = replace(
        target.components[0],
        candidate_logprobs_TC=logprobs,
        candidate_mask_TC=np.ones(candidates.shape, np.bool_),
    )
    given = isinstance(objective, SFT)
    return TrainRollout(
        rollout_id=rollout_id,
        prompt_ids=[0],
        response_ids=list(sequence),
        target=replace(
            target, components=(component,), candidate_ids_TC=candidates.astype(np.int32)
        ),
        reward=reward,
        **{"group": 0, "given": given, "on_policy": not given} | fields,
    )


def rollout_of(
    name: str, number: int, sequence: tuple[int, ...], logits: Floats, teacher: Floats, **fields
) -> TrainRollout:
    """A response as the case of that name wants it."""
    return make_rollout(
        OBJECTIVES[name],
        str(number),
        sequence,
        logits=logits,
        teacher=teacher,
        num_ids=NUM_IDS.get(name),
        **fields,
    )


def is_rewarded(sequence: tuple[int, ...]) -> float:
    return float(sequence[-1] == 2)


def pairs(
    objective: Objective,
    logits: Floats,
    teacher: Floats,
    *,
    reward=is_rewarded,
    num_ids: int | None = None,
):
    """Every outcome of sampling two responses, with its probability."""
    sequences, probability = WORLD.sequences(), WORLD.probabilities(logits)
    groups = [
        [
            make_rollout(
                objective,
                f"{i}-{j}-{place}",
                sequences[s],
                logits=logits,
                teacher=teacher,
                reward=reward(sequences[s]),
                group=i * len(sequences) + j,
                num_ids=num_ids,
            )
            for place, s in enumerate((i, j))
        ]
        for i in range(len(sequences))
        for j in range(len(sequences))
    ]
    return groups, np.outer(probability, probability).ravel()


def stated_loss(name: str, at: Floats, teacher: Floats) -> Callable[[Floats], float]:
    """Expected loss of a response as a function of the policy, sampled from `at` all along."""
    objective, token_loss = STATED[name]
    groups, weights = pairs(objective, at, teacher, num_ids=NUM_IDS.get(name))
    std = 1 / (np.sqrt(0.5) + 1e-4)  # of two rewards, 0 and 1, over G - 1

    def value(logits: Floats) -> float:
        p, sampled_from = np.exp(log_softmax(logits)), np.exp(log_softmax(at))
        total = 0.0
        for group, weight in zip(groups, weights, strict=True):
            mean = (group[0].reward + group[1].reward) / 2
            for rollout in group:
                sequence = tuple(rollout.response_ids)
                for prefix, a in zip(WORLD.prefixes(sequence), sequence, strict=True):
                    x = Token(
                        p=p[prefix],
                        at=sampled_from[prefix],
                        q=teacher[prefix],
                        a=a,
                        advantage=(rollout.reward - mean) * std,
                    )
                    total += weight * token_loss(x) / 2
        return total

    return value


@every_stated
def test_loss_of_a_group_is_its_closed_form(name):
    objective, token_loss = STATED[name]
    logits, teacher = WORLD.random_logits(3), WORLD.random_teacher(4)
    sequences, rewards = [(2, 0), (1, 2)], [1.0, 0.0]
    rollouts = [
        rollout_of(name, i, y, logits, teacher, reward=r)
        for i, (y, r) in enumerate(zip(sequences, rewards, strict=True))
    ]
    batch = collate(rollouts)
    stats = student_statistics(PrefixTable(torch.tensor(logits)), batch, objective.needs)
    (advantages,) = objective.advantages([stats], [batch])

    losses = objective.token_losses(stats, batch, advantages)

    p = np.exp(log_softmax(logits))
    size = 0.5 / (np.sqrt(0.5) + 1e-4)
    expected = [
        [
            token_loss(Token(p=p[s], at=p[s], q=teacher[s], a=a, advantage=advantage))
            for s, a in zip(WORLD.prefixes(y), y, strict=True)
        ]
        for y, advantage in zip(sequences, (size, -size), strict=True)
    ]
    np.testing.assert_allclose(losses.detach().numpy(), expected, rtol=1e-5, atol=1e-6)


@every_stated
def test_expectation_over_all_groups_is_the_gradient_of_the_stated_objective(name):
    objective = STATED[name][0]
    logits, teacher = WORLD.random_logits(0), WORLD.random_teacher(100)
    groups, weights = pairs(objective, logits, teacher, num_ids=NUM_IDS.get(name))

    gradient = expected_gradient(objective, logits, groups, weights)

    stated = finite_differences(stated_loss(name, logits, teacher), logits)
    # Targets travel as float32.
    np.testing.assert_allclose(gradient, stated, atol=2e-6)


@every_objective
def test_gradient_vanishes_where_student_and_expert_agree_and_rewards_are_equal(name):
    objective = OBJECTIVES[name]
    logits = WORLD.random_logits(1)
    if isinstance(objective, DistIL):
        objective = replace(objective, future="kl")  # cross-entropy-to-go charges for entropy
    groups, weights = pairs(
        objective,
        logits,
        as_teacher(logits),
        reward=lambda y: 1.0,
        num_ids=NUM_IDS.get(name),
    )

    gradient = expected_gradient(objective, logits, groups, weights)

    assert np.abs(gradient).max() < 1e-6


@every_objective
def test_one_step_raises_the_experts_token(name):
    world = TinyWorld(num_tokens=3, horizon=1)
    objective, logits = OBJECTIVES[name], np.array([[0.2, -0.5, 0.1]])
    # Where the two are farther apart than OPSD's bound, it does not learn from that token.
    teacher = np.array([[0.4, 0.2, 0.4] if isinstance(objective, OPSD) else [0.01, 0.01, 0.98]])
    rollouts = [
        rollout_of(
            name,
            a,
            (a,),
            logits,
            teacher,
            reward=a == 2,
            world=world,
        )
        for a in ((2,) if isinstance(objective, SFT) else (0, 1, 2))
    ]
    policy = PrefixTable(torch.tensor(logits))
    before = policy.logits[0].log_softmax(0)[2].item()

    Learner(policy, OptimiserConfig(lr=0.05)).step([collate(rollouts)], objective)

    assert policy.logits[0].log_softmax(0)[2].item() > before


@every_objective
def test_a_token_that_the_student_did_not_write_gets_exactly_no_gradient(name):
    objective = OBJECTIVES[name]
    logits, teacher = WORLD.random_logits(3), WORLD.random_teacher(4)
    rollouts = [
        rollout_of(
            name,
            i,
            y,
            logits,
            teacher,
            reward=i,
            owned=np.array([False, True]),
        )
        for i, y in enumerate([(2, 0), (1, 2)])
    ]
    policy = PrefixTable(torch.tensor(logits))
    batch = collate(rollouts)
    stats = student_statistics(policy, batch, objective.needs)
    (advantages,) = objective.advantages([stats], [batch])

    loss, _ = objective(stats, batch, advantages, objective.denominator([batch]))
    loss.backward()

    assert (policy.logits.grad[0] == 0).all()
    assert (policy.logits.grad[WORLD.prefixes((2, 0))[1]] != 0).any()


@every_objective
def test_what_a_tool_said_between_two_turns_has_no_part_in_loss_or_gradient(name):
    world = TinyWorld(num_tokens=3, horizon=4)
    objective, owned = OBJECTIVES[name], np.array([True, False, False, True])
    sequences = [(2, 0, 1, 0), (1, 2, 0, 2)]
    told = [prefix for y in sequences for prefix in world.prefixes(y)[1:3]]

    def gradient_of(logits: Floats, teacher: Floats) -> tuple[float, torch.Tensor]:
        rollouts = [
            rollout_of(name, i, y, logits, teacher, reward=i, owned=owned, world=world)
            for i, y in enumerate(sequences)
        ]
        policy, batch = PrefixTable(torch.tensor(logits)), collate(rollouts)
        stats = student_statistics(policy, batch, objective.needs)
        (advantages,) = objective.advantages([stats], [batch])
        loss, _ = objective(stats, batch, advantages, objective.denominator([batch]))
        loss.backward()
        assert policy.logits.grad is not None
        return loss.item(), policy.logits.grad

    logits, teacher = world.random_logits(3), world.random_teacher(4)
    loss, gradient = gradient_of(logits, teacher)
    logits[told], teacher[told] = world.random_logits(5)[told], world.random_teacher(6)[told]
    other_loss, other_gradient = gradient_of(logits, teacher)

    assert (gradient[told] == 0).all()
    assert (gradient != 0).any()
    assert other_loss == loss
    torch.testing.assert_close(other_gradient, gradient, rtol=0, atol=0)


# What a row may lack, and the objectives that learn from it all the same: from its reward, its own
# text or, DistIL, from the costs of later tokens.
LEARNS_WITHOUT = {
    "teacher": {"GRPO", "DAPO", "KDRL", "SFT", "SFT, mixed", "hybrid"},
    "reward": OBJECTIVES.keys() - {"GRPO", "DAPO", "KDRL", "TRRD"},
    "label": {"GRPO", "DAPO", "KDRL", "SFT", "SFT, mixed", "hybrid", "DistIL"},
    "own log-prob": OBJECTIVES.keys() - {"TRRD", "SDPO, sampled", "on-policy distillation"},
}


LEARNS_FROM_REWARDS_ALONE = {"GRPO", "DAPO", "TRRD"}


@pytest.mark.parametrize("lacks", LEARNS_WITHOUT)
@every_objective
def test_what_an_objective_cannot_learn_from_gets_exactly_no_gradient(name, lacks):
    objective = OBJECTIVES[name]
    logits = WORLD.random_logits(3)
    teacher = as_teacher(0.8 * logits)  # so near that no ratio is clipped
    rollouts = [
        rollout_of(
            name,
            i,
            (2, 0),
            logits,
            teacher,
            reward=reward,
        )
        for i, reward in enumerate([1.0, 0.0, 1.0, 0.0])
    ]
    rollouts[1] = without(rollouts[1], lacks)
    # A table for each row: what one row does to shared logits is not another's.
    policy = PrefixTable(torch.tensor(np.stack([logits] * len(rollouts))))
    batch = collate(rollouts)
    stats = student_statistics(policy, batch, objective.needs)
    (advantages,) = objective.advantages([stats], [batch])

    loss, _ = objective(stats, batch, advantages, objective.denominator([batch]))
    loss.backward()

    learns = name in LEARNS_WITHOUT[lacks]
    moved = (policy.logits.grad[:, WORLD.prefixes((2, 0))] != 0).any(-1).tolist()
    assert moved[1] == [learns, learns or lacks in ("label", "own log-prob")]
    assert moved[0] == moved[2] == moved[3] == [True, True]
    assert policy.logits.grad.isfinite().all()


@every_objective
def test_a_rollout_that_an_objective_names_silent_gets_exactly_no_gradient(name):
    objective, logits = OBJECTIVES[name], WORLD.random_logits(3)
    teacher = WORLD.random_teacher(4)
    rewards = [(0, 1.0), (0, 1.0), (1, 1.0), (1, 0.0)]
    rollouts = [
        rollout_of(name, i, (2, 0), logits, teacher, group=group, reward=reward)
        for i, (group, reward) in enumerate(rewards)
    ]
    policy = PrefixTable(torch.tensor(np.stack([logits] * len(rollouts))))
    batch = collate(rollouts)
    stats = student_statistics(policy, batch, objective.needs)
    (advantages,) = objective.advantages([stats], [batch])

    objective(stats, batch, advantages, objective.denominator([batch]))[0].backward()
    (silent_B,) = silent_in(objective, [batch])

    assert silent_B.tolist() == [name in LEARNS_FROM_REWARDS_ALONE] * 2 + [False] * 2
    assert (policy.logits.grad[silent_B] == 0).all()
    assert (policy.logits.grad[~silent_B] != 0).flatten(1).any(1).all()


@every_objective
def test_an_advantage_makes_its_token_likelier_exactly_where_the_objective_says_gains(name):
    objective, logits = OBJECTIVES[name], WORLD.random_logits(3)
    teacher, sequence = WORLD.random_teacher(4), (2, 0)
    rollouts = [rollout_of(name, i, sequence, logits, teacher, reward=i) for i in range(2)]
    batch = collate(rollouts)
    pushes = list[float]()
    for sign in (1.0, -1.0):
        policy = PrefixTable(torch.tensor(logits))
        stats = student_statistics(policy, batch, objective.needs)
        (advantages,) = objective.advantages([stats], [batch])
        weights = torch.full_like(advantages.advantage_BT, sign)
        objective.token_losses(
            stats, batch, replace(advantages, advantage_BT=weights)
        ).sum().backward()
        pushes.append(-policy.logits.grad[WORLD.prefixes(sequence), sequence].sum().item())

    assert (pushes[0] - pushes[1] > 1e-6) == weighs_gains(objective)


def without(rollout: TrainRollout, lacks: str) -> TrainRollout:
    """The same response without a teacher, a reward, or a teacher's word on its first token."""
    if lacks == "teacher":
        return replace(rollout, target=None)
    if lacks == "reward":
        return replace(rollout, reward=None)
    missing = (
        {"weight_T": np.array([0, 1], np.float32)}
        if lacks == "label"
        else {"own_mask_T": np.array([False, True])}
    )
    component = replace(rollout.target.components[0], **missing)
    return replace(rollout, target=replace(rollout.target, components=(component,)))


@pytest.mark.parametrize(
    ("name", "part", "share"),
    [("KDRL", "GRPO", 1.0), ("hybrid", "GRPO", 0.9), ("SFT, mixed", "SFT", 0.75)],
)
def test_without_a_teacher_only_the_other_part_of_a_mixed_objective_is_left(name, part, share):
    objective, other = OBJECTIVES[name], OBJECTIVES[part]
    logits, teacher = WORLD.random_logits(3), WORLD.random_teacher(4)
    rollouts = [
        make_rollout(objective, str(i), y, logits=logits, teacher=teacher, reward=i)
        for i, y in enumerate([(2, 0), (1, 2)])
    ]
    batch = collate([without(rollouts[0], "teacher"), rollouts[1]])
    stats = student_statistics(PrefixTable(torch.tensor(logits)), batch, objective.needs)

    losses, expected = (
        each.token_losses(stats, batch, each.advantages([stats], [batch])[0])
        for each in (objective, other)
    )

    assert (losses[0] == share * expected[0]).all()
    assert (losses[1] != share * expected[1]).all()


# Every division that each objective has; DistIL's are two.
DIVIDED = [
    (name, divide_by)
    for name, objective in OBJECTIVES.items()
    for divide_by in ("tokens", "responses", "rollouts")
    if not (isinstance(objective, DistIL) and divide_by == "responses")
]
CHANCES = np.array([0.5, 0.25], np.float32)


@pytest.mark.parametrize(("name", "divide_by"), DIVIDED)
def test_positions_drawn_at_random_leave_the_expected_gradient_as_it_is(name, divide_by):
    objective = replace(OBJECTIVES[name], divide_by=divide_by)
    if isinstance(objective, DistIL):
        # Who may be whose baseline depends on what was drawn.
        objective = replace(objective, baseline="none")
    logits = WORLD.random_logits(3)
    drawn, asked = two_rewarded(name, logits)

    expected = np.zeros_like(logits)
    for probability, rollout in draws(drawn):
        expected += probability * gradient_of_step(objective, logits, [rollout, asked])

    everywhere = gradient_of_step(objective, logits, [drawn, asked])
    assert np.abs(everywhere).max() > 1e-3
    np.testing.assert_allclose(expected, everywhere, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("on-policy distillation", "reverse_kl"),
        ("on-policy distillation", "token_loss"),
        ("offline distillation", "token_loss"),
        ("TRRD", "clipped"),
        ("TRRD", "beyond_teacher_bound"),
        ("TRRD", "token_loss"),
        ("SDPO, reverse", "divergence"),
        ("OPSD", "divergence"),
        ("GKD", "divergence"),
        ("KDRL", "k2"),
    ],
)
def test_metrics_of_drawn_positions_have_the_expected_sums_and_counts_of_all(name, metric):
    logits = WORLD.random_logits(3)
    drawn, asked = two_rewarded(name, logits)

    expected = np.zeros(2)
    for probability, rollout in draws(drawn):
        expected += probability * metric_of_step(name, metric, logits, [rollout, asked])

    everywhere = metric_of_step(name, metric, logits, [drawn, asked])
    assert everywhere[0] != 0
    assert everywhere[1] == 4
    np.testing.assert_allclose(expected, everywhere, atol=1e-6)


# Their loss is of what an expert said alone, and so is their count.
COUNT_WHAT_WAS_SAID = ("on-policy distillation", "offline distillation", "TRRD")


@pytest.mark.parametrize("name", COUNT_WHAT_WAS_SAID)
def test_a_response_of_which_no_position_was_drawn_is_counted_and_compared_all_the_same(name):
    objective, logits = OBJECTIVES[name], WORLD.random_logits(3)
    drawn, asked = two_rewarded(name, logits)
    untold = replace(drawn, target=None, inclusion_probability=CHANCES)

    gradient = gradient_of_step(objective, logits, [untold, asked])

    # The other row's share of the step with everything asked: the rest is exactly zero.
    share = gradient_of_row(objective, logits, [drawn, asked], 1)
    assert (share != 0).any()
    np.testing.assert_array_equal(gradient, share)


@pytest.mark.parametrize("lacks", ["label", "own log-prob"])
@pytest.mark.parametrize("name", COUNT_WHAT_WAS_SAID)
def test_a_token_without_an_answer_is_counted_only_where_the_draw_left_it_out(name, lacks):
    objective, logits = replace(OBJECTIVES[name], divide_by="tokens"), WORLD.random_logits(3)
    silent, asked = two_rewarded(name, logits)
    silent = without(silent, lacks)
    drawn = replace(silent, inclusion_probability=np.array([0.5, 1], np.float32))
    missing = lacks == "label" or name != "offline distillation"

    counts = [objective.denominator([collate([row, asked])]) for row in (silent, drawn)]

    assert counts == [3 if missing else 4, 4]


def two_rewarded(name: str, logits: Floats) -> list[TrainRollout]:
    """Two responses with unequal rewards, asked everywhere."""
    return [
        rollout_of(
            name,
            i,
            y,
            logits,
            WORLD.random_teacher(4),
            reward=i,
        )
        for i, y in enumerate([(2, 0), (1, 2)])
    ]


def draws(rollout: TrainRollout) -> list[tuple[float, TrainRollout]]:
    """Every outcome of asking at drawn positions, with its probability."""
    return [
        (
            np.where(asked, CHANCES, 1 - CHANCES).prod(),
            replace(only_at(rollout, np.array(asked)), inclusion_probability=CHANCES),
        )
        for asked in itertools.product([True, False], repeat=2)
    ]


def only_at(rollout: TrainRollout, asked_T: np.ndarray) -> TrainRollout:
    """The same response with a teacher that was asked at some positions."""
    component = replace(
        rollout.target.components[0],
        weight_T=asked_T.astype(np.float32),
        own_mask_T=asked_T,
        candidate_mask_TC=np.repeat(asked_T[:, None], NUM_CANDIDATES, axis=1),
    )
    return replace(rollout, target=replace(rollout.target, components=(component,)))


def gradient_of_step(objective: Objective, logits: Floats, rollouts: list[TrainRollout]) -> Floats:
    """[P, V] gradient of the divided loss of a step."""
    policy = PrefixTable(torch.tensor(logits))
    loss, _ = loss_of_step(objective, policy, rollouts)
    loss.backward()
    return policy.logits.grad.numpy()


def gradient_of_row(
    objective: Objective, logits: Floats, rollouts: list[TrainRollout], row: int
) -> Floats:
    """[P, V] what one row adds to the gradient of a step."""
    policy = PrefixTable(torch.tensor(np.stack([logits] * len(rollouts))))
    loss, _ = loss_of_step(objective, policy, rollouts)
    loss.backward()
    return policy.logits.grad[row].numpy()


def metric_of_step(name: str, metric: str, logits: Floats, rollouts: list[TrainRollout]) -> Floats:
    """Sum and count of one metric."""
    _, metrics = loss_of_step(OBJECTIVES[name], PrefixTable(torch.tensor(logits)), rollouts)
    return np.array([float(metrics[metric].total), float(metrics[metric].count)])


def loss_of_step(
    objective: Objective, policy: PrefixTable, rollouts: list[TrainRollout]
) -> tuple[torch.Tensor, dict[str, Mean]]:
    """The divided loss of a step in one batch, and its metrics."""
    batch = collate(rollouts)
    stats = student_statistics(policy, batch, objective.needs)
    (advantages,) = objective.advantages([stats], [batch])
    return objective(stats, batch, advantages, objective.denominator([batch]))


@every_objective
def test_packing_and_padding_change_nothing(name):
    objective = OBJECTIVES[name]
    world = TinyWorld(num_tokens=3, horizon=3)
    logits, teacher = world.random_logits(3), world.random_teacher(4)
    responses = [(0, 1, 2), (1, 1), (2,), (2, 2, 2), (0,), (1, 0)]
    rollouts = [
        rollout_of(
            name,
            i,
            y,
            logits,
            teacher,
            reward=float(i % 2),
            world=world,
            group=i // 3,
        )
        for i, y in enumerate(responses)
    ]
    whole, split = (PrefixTable(torch.tensor(logits)) for _ in range(2))
    config = OptimiserConfig(lr=0.05, max_grad_norm=None)

    once = Learner(whole, config).step([collate(rollouts)], objective)
    parts = make_batches(rollouts, token_budget=8)
    again = Learner(split, config).step(parts, objective)

    assert len(parts) > 2
    assert again.loss == pytest.approx(once.loss, rel=1e-6)
    assert again.metrics == pytest.approx(once.metrics, rel=1e-5, abs=1e-7)
    torch.testing.assert_close(split.logits, whole.logits)


# Beside the cases above, the forms of DistIL whose tokens read others in another way.
READS_OTHERS = {
    "DistIL, all costs": DistIL(credit="all"),
    "DistIL, mean of later costs": DistIL(normaliser="remaining", baseline="none"),
    "DistIL, discounted KL-to-go": DistIL(future="kl", gamma=0.9, advantage_clip=0.5),
}


@pytest.mark.parametrize("num_rows", [1, 4])
@pytest.mark.parametrize("name", [*OBJECTIVES, *READS_OTHERS])
def test_a_head_in_chunks_gives_the_loss_metrics_and_gradient_of_all_logits(name, num_rows):
    objective = (OBJECTIVES | READS_OTHERS)[name]
    world = TinyWorld(num_tokens=3, horizon=3)
    logits, teacher = world.random_logits(3), world.random_teacher(4)
    responses = [(0, 1, 2), (1, 1), (2,), (2, 2, 2), (0,), (1, 0)]
    batch = collate(
        [
            make_rollout(
                objective,
                str(i),
                y,
                logits=logits,
                teacher=teacher,
                reward=float(i % 2),
                world=world,
                num_ids=NUM_IDS.get(name),
                group=i // 3,
            )
            for i, y in enumerate(responses)
        ]
    )

    def through(head: Head) -> tuple[float, dict[str, Mean], list[torch.Tensor | None]]:
        torch.manual_seed(0)
        hidden = torch.randn(sum(map(len, responses)), 4, dtype=torch.float64, requires_grad=True)
        output = torch.nn.Linear(4, 3, dtype=torch.float64)
        (share,) = shares_of([batch], objective, lambda _: pytest.fail("one batch"), torch.float64)
        result = head.loss(hidden, output, batch, objective.needs, share)
        result.loss.backward()
        return result.loss.item(), result.extra[1], [hidden.grad, output.weight.grad]

    loss, metrics, gradients = through(LeanHead(chunk_bytes=num_rows * 3 * 8))
    wanted_loss, wanted_metrics, wanted_gradients = through(dense_head)

    assert loss == pytest.approx(wanted_loss, rel=1e-9, abs=1e-12)
    assert {k: v.value() for k, v in metrics.items()} == pytest.approx(
        {k: v.value() for k, v in wanted_metrics.items()}
    )
    torch.testing.assert_close(gradients, wanted_gradients)


@pytest.mark.parametrize("name", sorted(OBJECTIVES.keys() - {"SDPO, sampled"}))
def test_gradient_passes_gradcheck(name):
    """Not the sampled form: its weight is detached, so that differences see another function."""
    objective = OBJECTIVES[name]
    logits, teacher = WORLD.random_logits(3), WORLD.random_teacher(4)
    # The student's ids and what is detached are data here, as in a step.
    batch = collate(
        [rollout_of(name, i, y, logits, teacher, reward=i) for i, y in enumerate([(2, 0), (1, 2)])]
    )
    stats = student_statistics(PrefixTable(torch.tensor(logits)), batch, objective.needs)
    (advantages,) = objective.advantages([stats.detach()], [batch])

    def loss(free: torch.Tensor) -> torch.Tensor:
        policy = PrefixTable(torch.zeros_like(free))
        del policy.logits
        policy.logits = free
        return objective(
            student_statistics(policy, batch, objective.needs), batch, advantages, 1.0
        )[0]

    free = torch.tensor(logits, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (free,), fast_mode=True)


@pytest.mark.parametrize(
    "objective",
    [
        DistIL(future="none"),
        SDPO(divergence=Divergence(alpha=0.0)),
        OPSD(divergence=Divergence(alpha=0.0)),
        GKD(divergence=Divergence(alpha=0.0)),
        SFT(),
        SFT(soft=1.0),
    ],
)
def test_with_all_weight_on_one_token_the_loss_is_torch_cross_entropy(objective):
    logits = WORLD.random_logits(3)
    sequence = (2, 0)
    certain = np.full((WORLD.num_prefixes, 3), 0.0)
    certain[WORLD.prefixes(sequence), sequence] = 1.0
    with np.errstate(divide="ignore"):
        rollout = make_rollout(objective, "a", sequence, logits=logits, teacher=certain)
    policy = PrefixTable(torch.tensor(logits))
    batch = collate([rollout])
    stats = student_statistics(policy, batch, objective.needs)
    (advantages,) = objective.advantages([stats], [batch])

    loss = objective.token_losses(stats, batch, advantages).sum()

    expected = F.cross_entropy(
        policy.logits[WORLD.prefixes(sequence)], torch.tensor(sequence), reduction="sum"
    )
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("name", ["SDPO, sampled", "on-policy distillation", "GRPO", "DAPO"])
def test_a_score_term_is_torch_cross_entropy_times_its_weight(name):
    objective = OBJECTIVES[name]
    logits, teacher = WORLD.random_logits(3), WORLD.random_teacher(4)
    sequences = [(2, 0), (1, 2)]
    rollouts = [
        make_rollout(objective, str(i), y, logits=logits, teacher=teacher, reward=i)
        for i, y in enumerate(sequences)
    ]
    policy, other = (PrefixTable(torch.tensor(logits)) for _ in range(2))
    batch = collate(rollouts)
    stats = student_statistics(policy, batch, objective.needs)
    (advantages,) = objective.advantages([stats], [batch])
    own = stats.sampled_logprobs_BT.detach()
    weight = advantages.advantage_BT
    if name == "SDPO, sampled":
        weight = batch.targets.own_logprobs_BTE[..., 0] - own

    objective.token_losses(stats, batch, advantages).sum().backward()

    for y, weight_T in zip(sequences, weight, strict=True):
        costs = F.cross_entropy(other.logits[WORLD.prefixes(y)], torch.tensor(y), reduction="none")
        (costs * weight_T).sum().backward()
    torch.testing.assert_close(policy.logits.grad, other.logits.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["SDPO, sampled", "on-policy distillation"])
def test_the_sampled_token_estimates_reverse_kl_without_bias(name):
    logits, teacher = WORLD.random_logits(0), WORLD.random_teacher(100)
    groups, weights = pairs(OBJECTIVES[name], logits, teacher)
    at = WORLD.probabilities(logits)

    def reverse_kl(free: Floats) -> float:
        p = np.exp(log_softmax(free))
        return sum(
            probability * sum(kl(p[s], teacher[s]) for s in WORLD.prefixes(y))
            for y, probability in zip(WORLD.sequences(), at, strict=True)
        )

    gradient = expected_gradient(OBJECTIVES[name], logits, groups, weights)

    np.testing.assert_allclose(gradient, finite_differences(reverse_kl, logits), atol=2e-6)


def test_grpo_without_std_is_the_gradient_of_the_reward_but_for_its_own_share_of_the_mean():
    logits, teacher = WORLD.random_logits(0), WORLD.random_teacher(100)
    objective = GRPO(std=False)
    groups, weights = pairs(objective, logits, teacher)
    rewards = np.array([is_rewarded(y) for y in WORLD.sequences()])

    gradient = expected_gradient(objective, logits, groups, weights)

    reward = finite_differences(lambda free: float(WORLD.probabilities(free) @ rewards), logits)
    np.testing.assert_allclose(gradient, -(1 - 1 / 2) * reward, atol=1e-6)


def test_k2_over_sampled_tokens_has_the_gradient_of_reverse_kl():
    logits, teacher = WORLD.random_logits(0), WORLD.random_teacher(100)
    objective = KDRL(beta=1.0)
    groups, weights = pairs(objective, logits, teacher, reward=lambda y: 0.0)
    sampled = OnPolicyDistillation()

    gradient = expected_gradient(objective, logits, groups, weights)

    np.testing.assert_allclose(
        gradient, expected_gradient(sampled, logits, groups, weights), atol=1e-6
    )


def test_terms_above_the_bound_of_opsd_have_no_gradient():
    logits, teacher = np.zeros((WORLD.num_prefixes, 3)), WORLD.random_teacher(100)
    objective = OPSD(divergence=Divergence(alpha=0.0, term_clip=1e-9))
    terms = teacher[0] * np.log(teacher[0] * 3)

    rollout = make_rollout(objective, "a", (0, 1), logits=logits, teacher=teacher)
    policy = PrefixTable(torch.tensor(logits))
    batch = collate([rollout])
    stats = student_statistics(policy, batch, objective.needs)
    objective.token_losses(stats, batch, objective.advantages([stats], [batch])[0])[0, 0].backward()

    # Only the negative terms pull, each by -q on its own log-prob.
    pull = np.where(terms < 0, teacher[0], 0)
    np.testing.assert_allclose(policy.logits.grad[0], pull.sum() / 3 - pull, atol=1e-6)


def test_clip_higher_and_dual_clip_bind_on_their_own_sides():
    clip = Clip(low=0.2, high=0.28, dual=3.0)
    ratio = torch.tensor([0.5, 1.3, 0.5, 5.0], dtype=torch.float64)
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)

    loss = clip.loss(ratio.log(), advantage)

    assert loss.tolist() == pytest.approx([-0.5, -1.28, 0.8, 3.0])
