"""Losses and gradients beside an independent implementation: TRL 1.16, and torch's own kl_div.

TRL is a dependency of the tests only. Its functions take logits; ours see what travels: ids, log-
probs and tails. The student's logits are a table of prefixes, so that both sides differentiate the
same numbers.
"""

import warnings
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from preceptor_clients.targets.builder import Target
from preceptor_trainer.model.batch import TrainBatch, TrainRollout, collate
from preceptor_trainer.model.heads.dense import student_statistics
from preceptor_trainer.objectives import Advantages, Objective
from preceptor_trainer.objectives.clipping import Clip
from preceptor_trainer.objectives.divergences import Divergence, divergence_terms
from preceptor_trainer.objectives.gkd import GKD
from preceptor_trainer.objectives.grpo import GRPO
from preceptor_trainer.objectives.importance import TruncatedImportance
from preceptor_trainer.objectives.sdpo import SDPO
from preceptor_trainer.theory.enumeration import PrefixTable, TinyWorld, table_target

pytestmark = pytest.mark.usefixtures("one_thread")

V, NUM_IDS = 11, 4
WORLD = TinyWorld(num_tokens=V, horizon=3)
RESPONSE = (7, 2, 9)
PREFIXES = WORLD.prefixes(RESPONSE)
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def trl() -> Any:
    """TRL's pure loss functions; its import warns of what it will change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("trl")
        from trl.experimental.sdpo import loss_utils
    return loss_utils


def logits_pair() -> tuple[np.ndarray, np.ndarray]:
    return 2 * WORLD.random_logits(0), 2 * WORLD.random_logits(1)


def make_batch(num_ids: int = V) -> TrainBatch:
    """One response; the teacher's top ids and its log-probs at the student's top ids."""
    student, teacher = logits_pair()
    teacher_logprobs = torch.tensor(teacher).log_softmax(-1).numpy()
    target = table_target(WORLD, "r", RESPONSE, np.exp(teacher_logprobs), num_ids)
    candidates = np.argsort(-student[PREFIXES], axis=1)[:, :NUM_IDS]
    scored = np.take_along_axis(teacher_logprobs[PREFIXES], candidates, 1)
    component = replace(
        target.components[0],
        candidate_logprobs_TC=scored.astype(np.float32),
        candidate_mask_TC=np.ones(candidates.shape, np.bool_),
    )
    return collate(
        [
            TrainRollout(
                rollout_id="r",
                group=0,
                prompt_ids=[0],
                response_ids=list(RESPONSE),
                behaviour_logprobs=np.array([-1.0, -2.0, -0.5], np.float32),
                target=Target(
                    rollout_id="r",
                    components=(component,),
                    candidate_ids_TC=candidates.astype(np.int32),
                ),
            )
        ]
    )


def ours(
    objective: Objective, batch: TrainBatch, old_BT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Token losses, and the gradient of their sum at the positions' logits."""
    policy = PrefixTable(torch.tensor(logits_pair()[0]))
    stats = student_statistics(policy, batch, objective.needs)
    (advantages,) = objective.advantages([stats], [batch])
    if old_BT is not None:
        advantages = Advantages(advantage_BT=advantages.advantage_BT, old_logprobs_BT=old_BT)
    losses = objective.token_losses(stats, batch, advantages)
    losses.sum().backward()
    assert policy.logits.grad is not None
    return losses.detach()[0], policy.logits.grad[PREFIXES]


def theirs(function: Any, **options: Any) -> tuple[Tensor, Tensor]:
    student, teacher = logits_pair()
    free = torch.tensor(student[PREFIXES])[None].requires_grad_()
    losses = function(free, torch.tensor(teacher[PREFIXES])[None], **options)
    losses.sum().backward()
    assert free.grad is not None
    return losses.detach()[0], free.grad[0]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize(("rest", "add_tail"), [("tail", True), ("renormalise", False)])
def test_top_k_of_the_student_agrees(trl, alpha, rest, add_tail):
    divergence = Divergence(alpha=alpha, support="student", num_ids=NUM_IDS, rest=rest)

    loss, gradient = ours(SDPO(divergence=divergence), make_batch())

    expected, expected_gradient = theirs(
        trl.compute_topk_self_distillation_loss,
        distillation_topk=NUM_IDS,
        distillation_alpha=alpha,
        distillation_add_tail=add_tail,
    )
    torch.testing.assert_close(loss, expected, **TOLERANCE)
    torch.testing.assert_close(gradient, expected_gradient, **TOLERANCE)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_all_ids_of_the_expert_agree_with_full_logits(trl, alpha):
    loss, gradient = ours(SDPO(divergence=Divergence(alpha=alpha)), make_batch())

    expected, expected_gradient = theirs(
        trl.compute_full_logit_self_distillation_loss, distillation_alpha=alpha
    )
    torch.testing.assert_close(loss, expected, **TOLERANCE)
    torch.testing.assert_close(gradient, expected_gradient, **TOLERANCE)


def jsd_of_trl(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    """GKD's loss; its beta is our alpha, at both ends too: 0 is KL(q || p), 1 is KL(p || q)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.gkd import GKDTrainer
    return GKDTrainer.generalized_jsd_loss(student, teacher, **options)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0])
def test_gkd_agrees_at_every_token(trl, beta):
    loss, gradient = ours(GKD(divergence=Divergence(alpha=beta)), make_batch())

    expected, expected_gradient = theirs(
        # Unreduced, theirs has one term for each id of the vocabulary.
        lambda *logits, **options: jsd_of_trl(*logits, reduction="none", **options).sum(-1),
        beta=beta,
    )
    torch.testing.assert_close(loss, expected, **TOLERANCE)
    torch.testing.assert_close(gradient, expected_gradient, **TOLERANCE)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_gkd_agrees_as_a_mean_over_labelled_tokens(trl, beta):
    """With labels `batchmean` divides by tokens, as `divide_by="tokens"`; without, by rows."""
    objective = GKD(divergence=Divergence(alpha=beta))
    labels = torch.tensor([[7, -100, 9]])
    batch = replace(make_batch(), owned_BT=labels != -100)
    policy = PrefixTable(torch.tensor(logits_pair()[0]))
    stats = student_statistics(policy, batch, objective.needs)
    (advantages,) = objective.advantages([stats], [batch])

    loss, _ = objective(stats, batch, advantages, objective.denominator([batch]))
    loss.backward()

    expected, expected_gradient = theirs(
        lambda *logits, **options: jsd_of_trl(*logits, **options)[None], labels=labels, beta=beta
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(policy.logits.grad[PREFIXES], expected_gradient, **TOLERANCE)


def test_the_sampled_token_agrees(trl):
    loss, gradient = ours(SDPO(form="sampled"), make_batch())

    expected, expected_gradient = theirs(
        trl.compute_sampled_token_self_distillation_loss,
        completion_ids=torch.tensor([RESPONSE]),
        distillation_alpha=1.0,
    )
    torch.testing.assert_close(loss, expected, **TOLERANCE)
    torch.testing.assert_close(gradient, expected_gradient, **TOLERANCE)


def test_the_importance_clip_agrees(trl):
    """Behaviour is set to the old policy, so that only drift is left to correct."""
    old_BT = torch.tensor([[-1.0, -8.0, -0.5]], dtype=torch.float64)
    batch = replace(make_batch(), behaviour_logprobs_BT=old_BT)
    divergence = Divergence(alpha=1.0, support="student", num_ids=NUM_IDS)
    objective = SDPO(divergence=divergence, importance=TruncatedImportance(cap=2.0))
    student = torch.tensor(logits_pair()[0][PREFIXES]).log_softmax(-1)
    now_BT = student.gather(1, torch.tensor(RESPONSE)[:, None]).T

    loss, _ = ours(objective, batch, old_BT)

    plain, _ = ours(SDPO(divergence=divergence), batch)
    expected = trl.apply_importance_sampling_clipping(plain[None], now_BT, old_BT, 2.0)[0]
    ratio = (now_BT - old_BT).exp()
    assert (ratio > 2).any()
    assert (ratio < 2).any()
    torch.testing.assert_close(loss, expected, **TOLERANCE)


@pytest.mark.parametrize(("alpha", "swap"), [(0.0, False), (1.0, True)], ids=["forward", "reverse"])
def test_divergences_agree_with_torch_kl_div(alpha, swap):
    student, teacher = (torch.tensor(x).log_softmax(-1) for x in logits_pair())

    terms = divergence_terms(student, teacher, alpha)

    given, wanted = (teacher, student) if swap else (student, teacher)
    torch.testing.assert_close(
        terms, F.kl_div(given, wanted, reduction="none", log_target=True), rtol=1e-9, atol=1e-12
    )


def grpo_of_trl(
    logprobs_BT: Tensor, old_BT: Tensor, advantage_B: Tensor, mask_BT: Tensor, **fields: Any
) -> Tensor:
    """TRL's loss method on a trainer that consists of what the method reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl import GRPOTrainer
    accelerator = SimpleNamespace(
        gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1
    )
    trainer = SimpleNamespace(
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=0.0,
        _entropy_bonus_enabled=False,
        use_vllm=False,
        model=SimpleNamespace(training=False),
        accelerator=accelerator,
        _metrics={"eval": defaultdict(list)},
        max_completion_length=8,
        current_gradient_accumulation_steps=1,
        _get_per_token_logps_and_entropies=lambda *args, **kw: (
            logprobs_BT,
            torch.zeros_like(logprobs_BT),
            None,
        ),
        **fields,
    )
    inputs = {
        "prompt_ids": torch.zeros(len(advantage_B), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(advantage_B), 1),
        "completion_ids": torch.zeros(mask_BT.shape, dtype=torch.long),
        "completion_mask": mask_BT.to(logprobs_BT.dtype),
        "advantages": advantage_B,
        "old_per_token_logps": old_BT,
        "num_items_in_batch": mask_BT.sum(),
    }
    return GRPOTrainer._compute_loss(trainer, None, inputs)


@pytest.mark.parametrize(
    ("objective", "loss_type", "epsilon_high", "delta"),
    [
        (GRPO(), "grpo", 0.2, None),
        (GRPO(divide_by="tokens", clip=Clip(high=0.28)), "dapo", 0.28, None),
        (GRPO(divide_by="rollouts", length_constant=8, std=False), "dr_grpo", 0.2, None),
        (GRPO(clip=Clip(dual=3.0)), "grpo", 0.2, 3.0),
    ],
    ids=["grpo", "dapo", "dr_grpo", "dual clip"],
)
def test_grpo_agrees_also_where_the_policy_has_moved(
    trl, make_rollout, objective, loss_type, epsilon_high, delta
):
    rng = np.random.default_rng(0)
    lengths, rewards = (4, 2, 3, 4), (1.0, 0.0, 0.0, 1.0)
    batch = collate(
        [
            make_rollout(str(i), (0,) * length, reward=reward)
            for i, (length, reward) in enumerate(zip(lengths, rewards, strict=True))
        ]
    )
    mask_BT = batch.response_mask_BT
    free = torch.tensor(rng.normal(-1, 0.5, (4, 4)), requires_grad=True)
    old_BT = torch.tensor(rng.normal(-1, 1.0, (4, 4)))
    needs = SimpleNamespace(sampled_logprobs_BT=free, entropy_BT=None)
    (prepared,) = objective.advantages([needs], [batch])  # type: ignore[list-item]
    advantages = Advantages(advantage_BT=prepared.advantage_BT, old_logprobs_BT=old_BT)
    counted_BT = objective.counted(batch)

    losses = objective.token_losses(needs, batch, advantages)  # type: ignore[arg-type]
    if objective.divide_by == "responses":
        losses = losses / counted_BT.sum(-1, keepdim=True)
    loss = losses.sum() / objective.denominator([batch])
    gradient = torch.autograd.grad(loss, free)[0]

    moved = free.detach().requires_grad_()
    expected = grpo_of_trl(
        moved,
        old_BT,
        prepared.advantage_BT[:, 0],
        mask_BT,
        loss_type=loss_type,
        epsilon_low=0.2,
        epsilon_high=epsilon_high,
        args=SimpleNamespace(delta=delta),
    )
    expected_gradient = torch.autograd.grad(expected, moved)[0]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, **TOLERANCE)


def test_advantages_agree_with_the_formula_of_trl():
    """Rewards minus the group's mean over (its deviation of a sample + 1e-4)."""
    from preceptor_trainer.objectives.group_rewards import group_advantages

    reward = torch.tensor([1.0, 0.0, 0.5, 2.0, 2.0, 2.0, 7.0])
    group = torch.tensor([0, 0, 0, 1, 1, 1, 2])
    known = torch.ones(7, dtype=torch.bool)

    advantages = group_advantages(reward, known, group, std=True)

    first = reward[:3]
    expected = (first - first.mean()) / (first.std() + 1e-4)
    torch.testing.assert_close(advantages[:3], expected)
    assert advantages[3:].tolist() == [0, 0, 0, 0]
