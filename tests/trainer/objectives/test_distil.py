"""DistIL on a few tokens, where every number can be said."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from preceptor_trainer.model.batch import collate
from preceptor_trainer.model.heads.dense import student_statistics
from preceptor_trainer.objectives import Advantages
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.objectives.importance import TruncatedImportance
from preceptor_trainer.objectives.staleness import StaleWeights
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.theory.enumeration import PrefixTable, TinyWorld

LOCAL = DistIL(future="none")
RELEASED = DistIL(
    normaliser="remaining",
    baseline="none",
    divide_by="tokens",
    importance=TruncatedImportance(),
)


def evaluate(objective: DistIL, policy: PrefixTable, rollouts):
    """Loss, gradient and advantages of one batch."""
    policy.zero_grad()
    batch = collate(rollouts)
    stats = student_statistics(policy, batch, objective.needs)
    (advantages,) = objective.advantages([stats], [batch])
    loss, metrics = objective(stats, batch, advantages, objective.denominator([batch]))
    loss.backward()
    return loss.item(), policy.logits.grad.clone(), advantages.advantage_BT, metrics


def uniform_policy(num_tokens: int = 3, horizon: int = 4) -> PrefixTable:
    world = TinyWorld(num_tokens=num_tokens, horizon=horizon)
    return PrefixTable(torch.zeros(world.num_prefixes, num_tokens, dtype=torch.float64))


def test_loss_on_three_tokens_is_the_closed_form(make_component, make_rollout):
    """A uniform student costs log 3 everywhere: three costs, then score terms 2, 1, 0 of them."""
    component = make_component([[0, 1, 2]] * 3, [[0.5, 0.25, 0.25]] * 3)

    loss, *_ = evaluate(DistIL(), uniform_policy(), [make_rollout("a", (0, 1, 2), [component])])

    log3 = math.log(3)
    assert loss == pytest.approx(3 * log3 - (2 + 1 + 0) * log3 * log3)


def test_tail_is_matched_against_the_students_tail(make_component, make_rollout):
    component = make_component([[0]], [[0.75]])

    loss, *_ = evaluate(LOCAL, uniform_policy(), [make_rollout("a", (2,), [component])])

    assert loss == pytest.approx(-0.75 * math.log(1 / 3) - 0.25 * math.log(2 / 3))


def test_a_tail_pulls_all_other_tokens_alike(make_component, make_rollout):
    component = make_component([[0]], [[0.0]])

    _, gradient, *_ = evaluate(LOCAL, uniform_policy(), [make_rollout("a", (2,), [component])])

    assert gradient[0].tolist() == pytest.approx([1 / 3, -1 / 6, -1 / 6])


def test_at_p_equal_q_the_loss_is_the_entropy_and_the_local_gradient_vanishes(
    make_component, make_rollout
):
    probs = np.array([0.5, 0.25, 0.25])
    policy = PrefixTable(torch.tensor(np.log(probs)).repeat(4, 1))
    component = make_component([[0, 1, 2]] * 2, [probs] * 2)

    loss, gradient, *_ = evaluate(LOCAL, policy, [make_rollout("a", (0, 1), [component])])

    assert loss == pytest.approx(2 * -(probs * np.log(probs)).sum())
    assert gradient.abs().max() < 1e-8


def test_at_p_equal_q_kl_to_go_charges_nothing_and_ce_to_go_the_entropy(
    make_component, make_rollout
):
    probs = np.array([0.5, 0.25, 0.25])
    policy = PrefixTable(torch.tensor(np.log(probs)).repeat(4, 1))
    rollout = make_rollout("a", (0, 1), [make_component([[0, 1, 2]] * 2, [probs] * 2)])

    by_kl = evaluate(DistIL(future="kl"), policy, [rollout])[2]
    by_ce = evaluate(DistIL(future="ce"), policy, [rollout])[2]

    assert by_kl.abs().max() < 1e-8
    assert by_ce[0].tolist() == pytest.approx([-(probs * np.log(probs)).sum(), 0])


def test_a_point_target_is_torch_cross_entropy(policy, make_component, make_rollout, world):
    corrected = [2, 1, 0, 1]
    component = make_component([[token] for token in corrected], [[1.0]] * 4, kind="point")
    response = (0, 1, 2, 0)

    loss, *_ = evaluate(LOCAL, policy, [make_rollout("a", response, [component])])

    logits = policy.logits[world.prefixes(response)]
    expected = F.cross_entropy(logits, torch.tensor(corrected), reduction="sum")
    assert loss == pytest.approx(expected.item())


def test_an_unlabelled_position_gets_no_local_gradient_and_adds_no_future_cost(
    policy, make_labelled, world
):
    rollout = make_labelled(weight_T=[1, 0, 1, 1])

    _, gradient, *_ = evaluate(LOCAL, policy, [rollout])
    full = evaluate(DistIL(), policy, [make_labelled()])[2][0]
    part = evaluate(DistIL(), policy, [rollout])[2][0]

    unlabelled = world.prefixes((0, 1, 2, 0))[1]
    assert (gradient[unlabelled] == 0).all()
    assert part[0] < full[0]
    torch.testing.assert_close(part[1:], full[1:])


def test_an_unlabelled_token_is_still_charged_for_later_costs(policy, make_labelled):
    advantage = evaluate(DistIL(), policy, [make_labelled(weight_T=[1, 0, 1, 1])])[2]

    assert advantage[0, 1] > 0


def test_a_token_that_the_student_did_not_write_gets_exactly_no_gradient(
    policy, make_labelled, world
):
    rollout = make_labelled(owned=[True, False, True, True])

    _, gradient, advantage, _ = evaluate(DistIL(), policy, [rollout])

    given = world.prefixes((0, 1, 2, 0))[1]
    assert (gradient[given] == 0).all()
    assert advantage[0, 1] == 0
    assert advantage[0, 0] > 0


def test_loss_and_gradient_do_not_depend_on_how_rows_are_padded_together(policy, make_labelled):
    rollouts = [
        make_labelled("a", (0, 1), seed=1, group=1),
        make_labelled("b", (2, 0, 1, 1), seed=2, group=2),
    ]

    loss, gradient, *_ = evaluate(DistIL(), policy, rollouts)
    alone = [evaluate(DistIL(), policy, [rollout]) for rollout in rollouts]

    assert loss == pytest.approx(sum(part[0] for part in alone) / 2)
    torch.testing.assert_close(gradient, (alone[0][1] + alone[1][1]) / 2)


def test_two_experts_cost_the_weighted_sum_of_each(policy, make_component, make_rollout):
    first = make_component([[0, 1]], [[0.5, 0.5]], weight_T=[0.25])
    second = make_component([[2]], [[0.5]], weight_T=[0.75])
    alone = [replace(c, weight_T=np.ones(1, np.float32)) for c in (first, second)]

    together = evaluate(LOCAL, policy, [make_rollout("a", (0,), [first, second])])[0]
    apart = [evaluate(LOCAL, policy, [make_rollout("a", (0,), [c])])[0] for c in alone]

    assert together == pytest.approx(0.25 * apart[0] + 0.75 * apart[1])


def test_a_position_drawn_with_chance_one_half_counts_twice(policy, make_labelled):
    drawn = make_labelled(inclusion_probability=np.full(4, 0.5, np.float32))

    full = evaluate(DistIL(), policy, [make_labelled()])
    half = evaluate(DistIL(), policy, [drawn])

    torch.testing.assert_close(half[1], 2 * full[1])


def test_kl_to_go_counts_drawn_positions_like_ce_to_go(policy, make_labelled):
    drawn = make_labelled(inclusion_probability=np.full(4, 0.5, np.float32))
    objective = DistIL(future="kl")

    full = evaluate(objective, policy, [make_labelled()])[2]
    half = evaluate(objective, policy, [drawn])[2]

    torch.testing.assert_close(half, 2 * full)


def test_a_mean_of_later_costs_stays_a_mean_at_drawn_positions(policy, make_labelled):
    drawn = make_labelled(inclusion_probability=np.full(4, 0.5, np.float32))
    objective = DistIL(normaliser="remaining")

    full = evaluate(objective, policy, [make_labelled()])[2]
    half = evaluate(objective, policy, [drawn])[2]

    torch.testing.assert_close(half, full)


def test_under_all_credit_an_untaught_rollout_is_compared_at_cost_zero(
    policy, make_labelled, make_rollout
):
    taught, untaught = make_labelled("a"), make_rollout("b", (2, 1, 0, 1))
    alone = evaluate(DistIL(credit="all"), policy, [taught])[2]

    advantage = evaluate(DistIL(credit="all"), policy, [taught, untaught])[2]

    torch.testing.assert_close(advantage, torch.cat([alone, -alone]))
    assert (evaluate(DistIL(), policy, [taught, untaught])[2][1] == 0).all()


@pytest.mark.parametrize(
    "fields",
    [
        {"behaviour_logprobs": np.array([-1.0, np.nan, -1.0, -1.0], np.float32)},
        {"behaviour_logprobs": None},
        {"behaviour_logprobs": np.full(4, -1.0, np.float32), "given": True},
        {"behaviour_logprobs": np.full(4, -1.0, np.float32), "chosen_positions": True},
    ],
)
def test_an_off_policy_rollout_that_cannot_be_weighted_trains_the_local_term_only(
    policy, make_labelled, fields
):
    rollout = make_labelled(on_policy=False, **fields)

    gradient = evaluate(DistIL(importance=TruncatedImportance()), policy, [rollout])[1]
    local = evaluate(LOCAL, policy, [rollout])[1]

    torch.testing.assert_close(gradient, local)


def test_a_stale_rollout_of_the_same_policy_trains_like_a_fresh_one(policy, make_labelled):
    fresh = make_labelled()
    logprobs = student_statistics(policy, collate([fresh]), LOCAL.needs).sampled_logprobs_BT
    own = logprobs[0].detach().numpy().astype(np.float32)

    stale = replace(fresh, on_policy=False, behaviour_logprobs=own)

    for objective in (DistIL(), DistIL(future="kl"), DistIL(credit="all")):
        torch.testing.assert_close(
            evaluate(objective, policy, [stale])[1],
            evaluate(objective, policy, [fresh])[1],
            rtol=1e-6,
            atol=1e-8,
        )


def test_a_stale_rollouts_costs_weigh_the_ratio_of_the_tokens_before_them(policy, make_labelled):
    fresh = make_labelled()
    logprobs = student_statistics(policy, collate([fresh]), LOCAL.needs).sampled_logprobs_BT
    ratios = np.array([1.5, 0.5, 3.0, 7.0])
    behaviour = (logprobs[0].detach().numpy() - np.log(ratios)).astype(np.float32)
    batch = collate([replace(fresh, on_policy=False, behaviour_logprobs=behaviour)])
    stale_B = torch.tensor([True])

    before, after = StaleWeights(cap=2.0).weights(logprobs.detach(), batch, stale_B)
    whole, same = StaleWeights(cap=20.0).weights(logprobs.detach(), batch, stale_B, whole=True)

    assert before[0].tolist() == pytest.approx([1.0, 1.5, 0.75, 2.0], rel=1e-6)
    assert after[0].tolist() == pytest.approx([1.5, 0.75, 2.0, 2.0], rel=1e-6)
    assert whole[0].tolist() == same[0].tolist() == pytest.approx([15.75] * 4, rel=1e-6)


def test_a_stale_sibling_whose_weight_dips_and_recovers_is_a_bounded_baseline(
    policy, make_labelled
):
    rows = [make_labelled("a"), make_labelled("b")]
    logprobs_BT = student_statistics(policy, collate(rows), LOCAL.needs).sampled_logprobs_BT
    own_BT = logprobs_BT.detach().numpy()
    dips_T = np.array([-12.0, 12.0, 0.0, 0.0])
    stale = [
        replace(row, on_policy=False, behaviour_logprobs=(own_BT[n] - ratio).astype(np.float32))
        for n, (row, ratio) in enumerate(zip(rows, (np.zeros(4), dips_T), strict=True))
    ]

    advantages = evaluate(DistIL(), policy, stale)[2]

    costs = evaluate(DistIL(baseline="none"), policy, stale)[2]
    assert advantages[0].abs().max() <= 2 * 2 * costs.abs().max() + 1e-6


def test_a_forced_token_of_a_stale_rollout_has_no_ratio(policy, make_labelled):
    behaviour = np.array([-1.0, np.nan, -1.0, -1.0], np.float32)
    rollout = make_labelled(
        on_policy=False, behaviour_logprobs=behaviour, owned=[True, False, True, True]
    )
    batch = collate([rollout])
    logprobs = torch.tensor([[-0.5, -9.0, -0.5, -0.5]])

    before, _ = StaleWeights(cap=math.inf).weights(logprobs, batch, StaleWeights().stale(batch))

    assert before[0].log().tolist() == pytest.approx([0.0, 0.5, 0.5, 1.0])


def test_prefix_weights_read_earlier_positions_and_say_so(make_labelled):
    stale = make_labelled(on_policy=False, behaviour_logprobs=np.full(4, -1.0, np.float32))

    assert DistIL().reads(collate([make_labelled()])) == "later"
    assert DistIL().reads(collate([make_labelled("a"), stale])) == "all"
    assert LOCAL.reads(collate([stale])) == "own"


def test_a_rollout_without_a_teacher_has_no_loss_but_counts_as_sampled(
    policy, make_labelled, make_rollout
):
    taught, untaught = make_labelled("a"), make_rollout("b", (2, 1, 0, 1))

    loss, gradient, *_ = evaluate(DistIL(), policy, [taught, untaught])
    alone = evaluate(DistIL(), policy, [taught])

    assert loss == pytest.approx(alone[0] / 2)
    torch.testing.assert_close(gradient, alone[1] / 2)


def test_denominators_count_rollouts_or_taught_tokens(make_labelled, make_rollout):
    batches = [
        collate([make_labelled("a", owned=[True, True, False, True])]),
        collate([make_rollout("b", (0, 1))]),
    ]

    assert DistIL(length_constant=10).denominator(batches) == 20
    assert DistIL(divide_by="tokens").denominator(batches) == 3


def test_siblings_are_the_baseline_across_batches(policy, make_labelled):
    rollouts = [make_labelled(str(i), (i, 0, 1, 2), seed=i) for i in range(3)]
    together, apart = [collate(rollouts)], [collate([r]) for r in rollouts]

    def advantages(batches):
        stats = [student_statistics(policy, b, DistIL().needs) for b in batches]
        return torch.cat([a.advantage_BT for a in DistIL().advantages(stats, batches)])

    torch.testing.assert_close(advantages(together), advantages(apart))
    assert advantages(together).sum(0).abs().max() < 1e-12


def test_advantages_are_clipped_when_asked(policy, make_labelled):
    advantage = evaluate(DistIL(advantage_clip=0.5), policy, [make_labelled()])[2]

    assert advantage.tolist()[0][:2] == [0.5, 0.5]


def test_the_released_variant_is_its_formula(policy, make_labelled, world):
    behaviour = np.array([-9.0, -0.1, -1.0, -2.0], np.float32)
    rollout = make_labelled(behaviour_logprobs=behaviour)

    loss, *_ = evaluate(RELEASED, policy, [rollout])

    logprobs_TV = policy.logits.detach()[world.prefixes((0, 1, 2, 0))].log_softmax(-1)
    q_TV = torch.tensor(rollout.target.components[0].probs_TK, dtype=torch.float64)
    c = -(q_TV * logprobs_TV).sum(-1)
    later_means = torch.stack([c[1:].mean(), c[2:].mean(), c[3:].mean(), torch.zeros(())])
    own = logprobs_TV[range(4), [0, 1, 2, 0]]
    weights = (own - torch.tensor(behaviour)).exp().clamp(max=2.0)
    expected = (weights * (c + own * later_means)).mean()
    assert loss == pytest.approx(expected.item(), rel=1e-6)


def test_importance_weights_correct_drift_and_drop_tokens_of_unknown_origin(policy, make_labelled):
    behaviour = np.array([np.nan, -1.0, -1.0, -1.0], np.float32)
    batch = collate([make_labelled(behaviour_logprobs=behaviour)])
    now, old = torch.tensor([[-1.0, -1.0, -9.0, -1.0]]), torch.tensor([[-1.0, -1.5, -1.0, -1.0]])

    weights = TruncatedImportance(cap=2.0).weights(now, old, batch)

    assert weights[0].tolist() == pytest.approx(
        [0, math.exp(0.5) * math.exp(-0.5), math.exp(-8), 1], rel=1e-5
    )


def test_analytic_gradient_passes_gradcheck(make_labelled, world):
    objective = DistIL(baseline="none")
    batch = collate([make_labelled("a"), make_labelled("b", (2, 2, 1), seed=3)])
    logits = torch.tensor(world.random_logits(1), requires_grad=True)
    data = Advantages(
        advantage_BT=torch.randn(2, 4, dtype=torch.float64).masked_fill(~batch.owned_BT, 0),
        old_logprobs_BT=torch.zeros(2, 4, dtype=torch.float64),
    )

    def loss(logits):
        policy = PrefixTable(torch.zeros_like(logits))
        del policy.logits
        policy.logits = logits
        return objective(student_statistics(policy, batch, objective.needs), batch, data, 1.0)[0]

    assert torch.autograd.gradcheck(loss, (logits,), fast_mode=True)


def test_metrics_say_what_the_batch_was(policy, make_labelled, make_rollout):
    rollouts = [make_labelled("a"), make_rollout("b", (1, 2), reward=1.0)]

    metrics = evaluate(DistIL(), policy, rollouts)[3]

    assert metrics["has_teacher"].value() == 0.5
    assert metrics["response_length"].value() == 3
    assert metrics["reward"].value() == 1
    assert metrics["labelled_share"].value() == pytest.approx(4 / 6)
    assert metrics["kl"].value() == pytest.approx(
        metrics["cost"].value() - metrics["target_entropy"].value()
    )
    assert metrics["behaviour_gap"].value() is None


def test_kl_to_go_refuses_an_empirical_component(policy, make_component, make_rollout):
    rollout = make_rollout("a", (0,), [make_component([[0]], [[1.0]], kind="empirical")])

    with pytest.raises(ValueError, match="future='kl' with an empirical component in rollout 'a'"):
        evaluate(DistIL(future="kl"), policy, [rollout])


def test_positions_chosen_by_a_rule_refuse_the_future_term_only(policy, make_labelled):
    chosen = make_labelled(chosen_positions=True, weight_T=[0, 1, 0, 0])

    with pytest.raises(ValueError, match="chosen_positions=True in rollout 'r'"):
        evaluate(DistIL(), policy, [chosen])
    evaluate(LOCAL, policy, [chosen])
    evaluate(DistIL(), policy, [replace(chosen, on_policy=False)])


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        (SamplingParams(temperature=0.7), "temperature=0.7"),
        (SamplingParams(top_p=0.95), "top_p=0.95"),
        (SamplingParams(top_k=20), "top_k=20"),
    ],
)
def test_exact_distil_refuses_a_sampler_that_is_not_the_policy(sampling, field, make_plan):
    with pytest.raises(ValueError, match=field):
        DistIL().check(make_plan(sampling=sampling))
    DistIL(importance=TruncatedImportance()).check(make_plan(sampling=sampling))
    LOCAL.check(make_plan(sampling=sampling))


def test_exact_distil_accepts_plain_sampling(make_plan):
    DistIL().check(make_plan(sampling=SamplingParams(top_p=1.0, top_k=0)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"future": "js"}, "future must be one of"),
        ({"normaliser": "mean"}, "normaliser must be one of"),
        ({"normaliser": 0.0}, "normaliser must be positive"),
        ({"gamma": 0.0}, "gamma must be in"),
        ({"advantage_clip": -1.0}, "advantage_clip must be positive"),
        ({"length_constant": 0.0}, "length_constant must be positive"),
        ({"local": False, "future": "none"}, "leaves nothing to train"),
        ({"credit": "all", "gamma": 0.9}, "credit='all' charges past costs too"),
        ({"credit": "all", "normaliser": "remaining"}, "credit='all' charges past costs too"),
    ],
)
def test_impossible_switches_are_refused_when_built(fields, message):
    with pytest.raises(ValueError, match=message):
        DistIL(**fields)
