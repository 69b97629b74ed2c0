import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from preceptor_trainer.learner.learner import Learner, OptimiserConfig, clip
from preceptor_trainer.model.batch import collate, make_batches
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.objectives.grpo import GRPO
from preceptor_trainer.theory.enumeration import PrefixTable

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = OptimiserConfig(lr=0.05, max_grad_norm=None)


@pytest.fixture
def rollouts(make_labelled):
    """Two groups of three, of different lengths."""
    responses = [(0, 1, 2, 0), (1, 1), (2, 0, 0), (2, 2, 2, 1), (0,), (1, 0, 2)]
    return [
        make_labelled(str(i), response, seed=i, group=i // 3)
        for i, response in enumerate(responses)
    ]


def _numbers(results):
    """Everything but the per-token record, whose arrays do not compare to one truth value."""
    return [replace(result, credits=()) for result in results]


def test_a_step_raises_the_experts_token(policy, make_component, make_rollout):
    wanted = make_rollout("a", (0,), [make_component([[2]], [[1.0]], kind="point")])
    before = policy.logits[0].log_softmax(0)[2].item()

    Learner(policy, CONFIG).step([collate([wanted])], DistIL())

    assert policy.logits[0].log_softmax(0)[2].item() > before


def test_splitting_the_step_into_batches_changes_nothing(policy, rollouts):
    other = copy.deepcopy(policy)
    whole = Learner(policy, CONFIG).step([collate(rollouts)], DistIL())

    split = Learner(other, CONFIG).step(make_batches(rollouts, token_budget=10), DistIL())

    assert len(make_batches(rollouts, token_budget=10)) > 2
    assert split.loss == pytest.approx(whole.loss)
    assert split.grad_norm == pytest.approx(whole.grad_norm)
    assert split.metrics == pytest.approx(whole.metrics)
    torch.testing.assert_close(other.logits, policy.logits)


def test_whole_groups_need_one_forward_pass_and_split_groups_two(policy, rollouts):
    calls: list[int] = []
    look_up = policy._look_up
    policy._look_up = lambda **inputs: calls.append(1) or look_up(**inputs)
    learner = Learner(policy, CONFIG)
    by_group = [collate(rollouts[:3]), collate(rollouts[3:])]
    across = [collate(rollouts[:2]), collate(rollouts[2:])]

    learner.step(by_group, DistIL())
    num_fused = len(calls)
    learner.step(across, DistIL())

    assert num_fused == 2
    assert len(calls) - num_fused == 4


def test_only_costs_to_go_need_two_passes_of_split_groups_and_only_of_those(policy, rollouts):
    calls: list[int] = []
    look_up = policy._look_up
    policy._look_up = lambda **inputs: calls.append(1) or look_up(**inputs)
    rollouts = [replace(row, reward=float(i % 2)) for i, row in enumerate(rollouts)]
    # The first group is split, the second is whole.
    batches = [collate(rollouts[:2]), collate(rollouts[2:3]), collate(rollouts[3:])]
    num_passes: list[int] = []

    for objective in (GRPO(), DistIL(future="none"), DistIL()):
        Learner(policy, CONFIG).step(batches, objective)
        num_passes.append(len(calls))
        calls.clear()

    assert num_passes == [3, 3, 5]


def test_the_same_inputs_give_the_same_numbers(policy, rollouts):
    other = copy.deepcopy(policy)

    results = [
        [learner.step(make_batches(rollouts, token_budget=16), DistIL()) for _ in range(3)]
        for learner in (Learner(policy, CONFIG), Learner(other, CONFIG))
    ]

    assert _numbers(results[0]) == _numbers(results[1])
    assert torch.equal(policy.logits, other.logits)


def test_a_restored_learner_continues_identically(policy, rollouts):
    config = OptimiserConfig(lr=0.05, warmup_steps=4)
    batches = [collate(rollouts)]
    learner = Learner(policy, config)
    learner.step(batches, DistIL())
    copied = copy.deepcopy(policy)
    restored = Learner(copied, config)
    restored.load_state_dict(copy.deepcopy(learner.state_dict()))

    expected = [learner.step(batches, DistIL()) for _ in range(3)]
    continued = [restored.step(batches, DistIL()) for _ in range(3)]

    assert _numbers(continued) == _numbers(expected)
    assert torch.equal(copied.logits, policy.logits)


def test_a_large_models_optimiser_reads_it_once_and_takes_the_same_steps(policy, rollouts):
    large, batches = copy.deepcopy(policy), [collate(rollouts)]
    large.unused = torch.nn.Parameter(torch.zeros(1 << 23))
    config = OptimiserConfig(lr=0.05, weight_decay=0.1)
    learners = [Learner(model, config) for model in (policy, large)]

    for _ in range(4):
        for learner in learners:
            learner.step(batches, DistIL())

    states = [learner.state_dict()["optimiser"]["param_groups"] for learner in learners]
    assert [groups[0]["fused"] for groups in states] == [None, True]
    torch.testing.assert_close(large.logits, policy.logits)


def test_a_restored_learner_computes_its_own_way(policy, rollouts):
    learner = Learner(policy, CONFIG)
    learner.step([collate(rollouts)], DistIL())
    state = copy.deepcopy(learner.state_dict())
    for group in state["optimiser"]["param_groups"]:
        group["fused"] = True

    learner.load_state_dict(state)

    groups = learner.state_dict()["optimiser"]["param_groups"]
    assert [group["fused"] for group in groups] == [None] * len(groups)


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(policy, rollouts):
    with torch.no_grad():
        policy.logits[0, 0] = float("nan")
    before = policy.logits.detach().clone()
    learner = Learner(policy, CONFIG)

    result = learner.step([collate(rollouts)], DistIL())

    assert result.skipped
    assert (learner.num_skipped, learner.num_steps) == (1, 1)
    torch.testing.assert_close(policy.logits.detach(), before, equal_nan=True, rtol=0, atol=0)


def test_a_step_without_signal_has_no_gradient_but_momentum_moves_the_weights(policy, make_rollout):
    def group(*rewards):
        rows = [make_rollout(str(i), (i,), reward=reward) for i, reward in enumerate(rewards)]
        return [collate(rows)]

    learner = Learner(policy, CONFIG)
    first = learner.step(group(1.0, 0.0), GRPO())
    before = policy.logits.detach().clone()

    second = learner.step(group(1.0, 1.0), GRPO())

    assert first.grad_norm > 0
    assert (second.grad_norm, second.skipped) == (0.0, False)
    assert not torch.equal(policy.logits, before)


def test_rollouts_without_signal_change_no_step_that_computes_them_without_gradient(
    policy, make_rollout
):
    rows = [
        make_rollout(str(i), (i % 3, 1), group=i // 2, reward=reward)
        for i, reward in enumerate((1.0, 0.0, 1.0, 1.0))
    ]
    other = copy.deepcopy(policy)
    whole = Learner(policy, CONFIG).step([collate(rows)], GRPO())

    apart = Learner(other, CONFIG).step([collate(rows[:2]), collate(rows[2:])], GRPO())

    assert (apart.loss, apart.grad_norm) == pytest.approx((whole.loss, whole.grad_norm))
    assert apart.metrics == pytest.approx(whole.metrics)
    assert [row.rollout_id for row in apart.credits] == ["0", "1", "2", "3"]
    torch.testing.assert_close(other.logits, policy.logits)


def test_only_batches_with_a_gradient_have_a_graph(policy, make_rollout):
    with_graph: list[bool] = []
    look_up = policy._look_up
    policy._look_up = lambda **inputs: (
        with_graph.append(torch.is_grad_enabled()) or look_up(**inputs)
    )
    rows = [
        make_rollout(str(i), (i % 3,), group=i // 2, reward=reward)
        for i, reward in enumerate((1.0, 0.0, 1.0, 1.0))
    ]

    Learner(policy, CONFIG).step([collate(rows[:2]), collate(rows[2:])], GRPO())

    assert with_graph == [True, False]


def test_an_objective_that_is_wrong_about_its_silent_rollouts_is_refused(policy, make_rollout):
    class Wrong(GRPO):
        def silent(self, batches):
            return [torch.ones_like(batch.on_policy_B) for batch in batches]

    rows = [make_rollout(str(i), (i,), reward=float(i)) for i in range(2)]

    with pytest.raises(ValueError, match="silent: Wrong names rollouts"):
        Learner(policy, CONFIG).step([collate(rows)], Wrong())


def test_the_rate_warms_up_and_stays(policy, rollouts):
    learner = Learner(policy, OptimiserConfig(lr=0.4, warmup_steps=4))

    rates = [learner.step([collate(rollouts)], DistIL()).lr for _ in range(6)]

    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_the_rate_falls_to_zero_at_the_step_that_is_said(policy, rollouts):
    learner = Learner(policy, OptimiserConfig(lr=0.4, warmup_steps=2, decay_until=6))

    rates = [learner.step([collate(rollouts)], DistIL()).lr for _ in range(7)]

    assert rates == pytest.approx([0.2, 0.4, 0.4, 0.3, 0.2, 0.1, 0.0])


def test_clipping_bounds_the_gradient_and_reports_its_size(policy, rollouts):
    """With plain sums of gradients as moments, a clipped step has a bounded first moment."""
    learner = Learner(policy, OptimiserConfig(lr=0.05, max_grad_norm=0.01, betas=(0.0, 0.99)))

    result = learner.step([collate(rollouts)], DistIL())

    moment = learner.state_dict()["optimiser"]["state"][0]["exp_avg"]
    assert result.grad_norm > 0.01
    assert moment.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_a_step_without_any_teacher_leaves_the_weights_alone(policy, make_rollout):
    before = policy.logits.detach().clone()

    result = Learner(policy, CONFIG).step([collate([make_rollout()])], DistIL())

    assert torch.equal(policy.logits.detach(), before)
    assert result.metrics["has_teacher"] == 0
    assert "cost" not in result.metrics


def test_training_on_a_fixed_teacher_lowers_the_expected_cost(world, make_rollout, make_component):
    """Sample, step, repeat: thirty on-policy steps towards one distribution."""
    rng = np.random.default_rng(0)
    policy = PrefixTable(torch.tensor(world.random_logits(0)))
    learner = Learner(policy, OptimiserConfig(lr=0.1))
    probs = [0.8, 0.1, 0.1]
    kls: list[float] = []

    for _ in range(30):
        p = world.probabilities(policy.logits.detach().numpy())
        drawn = rng.choice(len(p), 16, p=p / p.sum())
        rollouts = [
            make_rollout(
                str(n), world.sequences()[i], [make_component([[0, 1, 2]] * 4, [probs] * 4)]
            )
            for n, i in enumerate(drawn)
        ]
        result = learner.step([collate(rollouts)], DistIL(future="kl"))
        kls.append(result.metrics["kl"])

    assert kls[-1] < 0.3 * kls[0]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"lr": 0.0}, "lr"),
        ({"lr": 1.0, "weight_decay": -1.0}, "weight_decay"),
        ({"lr": 1.0, "max_grad_norm": 0.0}, "max_grad_norm"),
        ({"lr": 1.0, "warmup_steps": -1}, "warmup_steps"),
        ({"lr": 1.0, "warmup_steps": 4, "decay_until": 4}, "decay_until"),
    ],
)
def test_impossible_settings_are_refused(fields, name):
    with pytest.raises(ValueError, match=name):
        OptimiserConfig(**fields)


def test_no_batches_are_refused(policy):
    with pytest.raises(ValueError, match="batches is empty"):
        Learner(policy, CONFIG).step([], DistIL())


@pytest.mark.parametrize("bound", [0.5, 0.9999995, 1.0 - 1e-7, 1.0, 1.0000005, 1.000001, 2.0, None])
def test_gradients_are_clipped_to_the_bit_as_torch_does_it(bound: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, generator=generator) for shape in ((7, 5), (3,))]
    norm = torch.nn.utils.get_total_norm(drawn)
    ours, torchs = ([torch.nn.Parameter(torch.zeros_like(one)) for one in drawn] for _ in range(2))
    for parameters in (ours, torchs):
        for parameter, gradient in zip(parameters, drawn, strict=True):
            parameter.grad = gradient / norm
    torch.nn.utils.clip_grad_norm_(torchs, float("inf") if bound is None else bound)

    clip(ours, bound, torch.nn.utils.get_total_norm([one.grad for one in ours]))

    for own, other in zip(ours, torchs, strict=True):
        assert torch.equal(own.grad, other.grad)
