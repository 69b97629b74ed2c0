import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import Qwen3ForCausalLM

from preceptor_trainer.model.batch import collate
from preceptor_trainer.model.heads.dense import dense_head, student_statistics
from preceptor_trainer.model.statistics import ABSENT, Needs, log_tail_mass

from .small_rows import qwen3

ALL = Needs(target_logprobs=True, num_candidates=2, entropy=True)


@pytest.fixture
def language_model() -> Qwen3ForCausalLM:
    return qwen3(vocab_size=11)


class FixedModel(nn.Module):
    """The same logits everywhere."""

    def __init__(self, logits_V: torch.Tensor) -> None:
        super().__init__()
        self.logits_V = nn.Parameter(logits_V)

    def get_decoder(self):
        def decode(*, input_ids, use_cache):
            shape = (*input_ids.shape, len(self.logits_V))
            return SimpleNamespace(last_hidden_state=self.logits_V.expand(shape))

        return decode

    def get_output_embeddings(self) -> nn.Module:
        return nn.Identity()


@torch.no_grad()
def test_sampled_logprob_is_the_language_models_own(language_model, make_rollout):
    rollout = make_rollout("a", (4, 9, 2), prompt_ids=(1, 5))

    stats = student_statistics(language_model, collate([rollout]), Needs())

    logits = language_model(input_ids=torch.tensor([[1, 5, 4, 9, 2]])).logits[0]
    expected = -F.cross_entropy(logits[1:4], torch.tensor([4, 9, 2]), reduction="none")
    torch.testing.assert_close(stats.sampled_logprobs_BT[0], expected)


@torch.no_grad()
def test_statistics_do_not_depend_on_neighbours_or_padding(
    language_model, make_component, make_rollout
):
    component = make_component([[3, 4], [5, 6]], [[0.6, 0.3], [0.5, 0.1]])
    rollout = make_rollout("a", (3, 6), [component], candidate_ids_TC=[[1, 2], [3, -1]])
    longer = make_rollout("b", (1, 2, 3, 4, 5), prompt_ids=(7, 8, 9))

    alone = student_statistics(language_model, collate([rollout]), ALL)
    beside = student_statistics(language_model, collate([longer, rollout]), ALL)

    for name, value in vars(alone).items():
        torch.testing.assert_close(vars(beside)[name][1, :2], value[0], msg=name)


@torch.no_grad()
def test_tail_is_the_mass_outside_the_ids(language_model, make_component, make_rollout):
    component = make_component([[3, 4, -1]], [[0.6, 0.3, 0.0]])
    batch = collate([make_rollout("a", (3,), [component])])

    stats = student_statistics(language_model, batch, ALL)

    on_ids = stats.target_logprobs_BTEK[0, 0, 0, :2].exp().sum()
    torch.testing.assert_close(on_ids + stats.tail_logprobs_BTE[0, 0, 0].exp(), torch.tensor(1.0))
    assert stats.target_logprobs_BTEK[0, 0, 0, 2] == ABSENT


def test_a_certain_student_has_a_finite_tail_and_gradient(make_component, make_rollout):
    model = FixedModel(torch.tensor([200.0, 0.0, 0.0]))
    batch = collate([make_rollout("a", (0,), [make_component([[0]], [[0.9]])])])

    stats = student_statistics(model, batch, ALL)
    stats.tail_logprobs_BTE.sum().backward()

    assert -17 < stats.tail_logprobs_BTE.item() < -15
    assert torch.isfinite(model.logits_V.grad).all()


def test_an_empty_support_has_log_tail_zero_and_a_finite_gradient():
    logprobs = torch.full((2, 3), -1.0, requires_grad=True)

    tail = log_tail_mass(logprobs, torch.zeros(2, 3, dtype=torch.bool))
    tail.sum().backward()

    assert tail.tolist() == [0, 0]
    assert logprobs.grad.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_log_tail_mass_has_its_analytic_gradient():
    logprobs = torch.tensor([[-1.5, -2.0, -3.0]], dtype=torch.float64, requires_grad=True)
    present = torch.tensor([[True, True, False]])

    assert torch.autograd.gradcheck(lambda x: log_tail_mass(x, present), (logprobs,))


def test_entropy_of_a_uniform_policy_is_log_of_the_vocabulary(make_rollout):
    model = FixedModel(torch.zeros(5))

    stats = student_statistics(model, collate([make_rollout()]), Needs(entropy=True))

    torch.testing.assert_close(stats.entropy_BT, torch.full((1, 2), math.log(5)))


def test_half_precision_logits_give_float32_statistics(make_labelled):
    batch = collate([make_labelled()])
    hidden = torch.randn(4, 3, dtype=torch.bfloat16)

    stats = dense_head(hidden, nn.Identity(), batch, ALL)

    assert {value.dtype for value in vars(stats).values()} == {torch.float32}


def test_a_batch_without_any_teacher_has_statistics_too(make_rollout):
    stats = student_statistics(FixedModel(torch.zeros(3)), collate([make_rollout()]), ALL)

    assert stats.target_logprobs_BTEK.shape == (1, 2, 0, 0)
    assert torch.isfinite(stats.sampled_logprobs_BT).all()


def test_what_is_not_needed_is_not_computed(make_labelled):
    stats = student_statistics(FixedModel(torch.zeros(3)), collate([make_labelled()]), Needs())

    assert [name for name, value in vars(stats).items() if value is not None] == [
        "sampled_logprobs_BT"
    ]
