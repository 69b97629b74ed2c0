import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen3Config, Qwen3ForCausalLM

from preceptor_trainer.learner.learner import Learner, OptimiserConfig
from preceptor_trainer.model.batch import collate, make_batches
from preceptor_trainer.model.heads.by_size import HeadBySize
from preceptor_trainer.model.heads.dense import dense_head
from preceptor_trainer.model.heads.lean import LeanHead
from preceptor_trainer.model.statistics import Needs
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.objectives.grpo import GRPO

pytestmark = pytest.mark.usefixtures("one_thread")

ALL = Needs(target_logprobs=True, num_candidates=2, entropy=True)
HIDDEN, VOCABULARY = 16, 29
ROW_BYTES = 4 * VOCABULARY
CONFIG = OptimiserConfig(lr=0.05, max_grad_norm=None)


@dataclass(frozen=True)
class WeightedSum:
    """A loss of all statistics; `compare` makes that of a token depend on the others."""

    reads: str = "own"
    compare: bool = False
    factor: float = 1.0

    def __call__(self, stats):
        everything = [stats.sampled_logprobs_BT, stats.tail_logprobs_BTE.exp()]
        everything += [stats.target_logprobs_BTEK.exp(), stats.candidate_logprobs_BTC.exp()]
        total = sum((value**2).sum() for value in everything if value.numel())
        scale = stats.sampled_logprobs_BT.exp().sum().detach() if self.compare else 1.0
        return total * scale * self.factor, stats.sampled_logprobs_BT.detach().sum()


@pytest.fixture
def batch(make_component, make_rollout):
    """Five positions in two rows; one cell of the ids is empty."""
    component = make_component([[3, 4, -1], [5, 6, 28]], [[0.6, 0.3, 0.0], [0.5, 0.1, 0.2]])
    taught = make_rollout("a", (3, 6), [component], candidate_ids_TC=[[1, 3], [3, -1]])
    return collate([taught, make_rollout("b", (1, 2, 27))])


@pytest.fixture
def make_head_inputs():
    """Hidden states and an output embedding; the same numbers every time."""

    def make(dtype=torch.float32, bias=True):
        torch.manual_seed(0)
        hidden = torch.randn(5, HIDDEN, dtype=torch.float64).to(dtype).requires_grad_()
        return hidden, nn.Linear(HIDDEN, VOCABULARY, bias=bias, dtype=torch.float64).to(dtype)

    return make


def gradients(head, inputs, batch, loss):
    """Value, what came with it, and the gradients of hidden states, weights and bias."""
    hidden, output = inputs
    result = head.loss(hidden, output, batch, ALL, loss)
    result.loss.backward()
    found = {"value": result.loss.detach(), "extra": result.extra, "hidden": hidden.grad}
    return found | {name: p.grad for name, p in output.named_parameters()}


@pytest.mark.parametrize("num_rows", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_statistics_are_those_of_the_dense_head(batch, make_head_inputs, dtype, num_rows):
    head = LeanHead(chunk_bytes=num_rows * VOCABULARY * dtype.itemsize)

    found = head(*make_head_inputs(dtype), batch, ALL)

    expected = dense_head(*make_head_inputs(dtype), batch, ALL)
    for name, value in vars(expected).items():
        torch.testing.assert_close(vars(found)[name], value, msg=name)


@pytest.mark.parametrize("reads", ["own", "later", "all"])
@pytest.mark.parametrize("bias", [True, False])
def test_loss_and_gradients_are_those_of_the_dense_head(batch, make_head_inputs, bias, reads):
    loss = WeightedSum(reads)

    found = gradients(LeanHead(chunk_bytes=1), make_head_inputs(torch.float64, bias), batch, loss)

    expected = gradients(dense_head, make_head_inputs(torch.float64, bias), batch, loss)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_a_loss_that_is_scaled_before_the_backward_pass_has_a_scaled_gradient(
    batch, make_head_inputs
):
    hidden, output = make_head_inputs()
    whole = gradients(LeanHead(), make_head_inputs(), batch, WeightedSum())

    (LeanHead().loss(hidden, output, batch, ALL, WeightedSum()).loss * 0.5).backward()

    torch.testing.assert_close(hidden.grad, 0.5 * whole["hidden"])
    torch.testing.assert_close(output.weight.grad, 0.5 * whole["weight"])


class LargestResult(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned."""

    num_elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        self.num_elements = max(self.num_elements, *sizes, 0)
        return result


@pytest.mark.parametrize("reads", ["own", "later", "all"])
def test_no_tensor_holds_more_than_one_chunk_of_logits(make_rollout, reads):
    num_rows, vocabulary = 64, 1000
    torch.manual_seed(0)
    hidden = torch.randn(num_rows, 4, requires_grad=True)
    output = nn.Linear(4, vocabulary, bias=False)
    batch = collate([make_rollout("a", [7] * num_rows)])

    with LargestResult() as largest:
        head = LeanHead(chunk_bytes=8 * 4 * vocabulary)
        head.loss(hidden, output, batch, ALL, WeightedSum(reads)).loss.backward()

    assert largest.num_elements == 8 * vocabulary


def test_weights_of_16_bits_give_logprobs_and_sums_of_32(batch, make_head_inputs):
    hidden, output = make_head_inputs(torch.bfloat16)
    exact = (hidden.detach().double().requires_grad_(), copy.deepcopy(output).double())

    found = gradients(LeanHead(chunk_bytes=ROW_BYTES), (hidden, output), batch, WeightedSum())

    expected = gradients(dense_head, exact, batch, WeightedSum())
    torch.testing.assert_close(found["value"].double(), expected["value"], rtol=1e-5, atol=0)
    # One rounding, of the finished sums.
    for name in ("hidden", "weight", "bias"):
        assert found[name].dtype == torch.bfloat16
        torch.testing.assert_close(found[name], expected[name].bfloat16(), rtol=0.008, atol=1e-6)


def test_frozen_weights_get_no_gradient_and_hidden_states_theirs(batch, make_head_inputs):
    hidden, output = make_head_inputs()
    output.requires_grad_(False)

    LeanHead().loss(hidden, output, batch, ALL, WeightedSum()).loss.backward()

    expected = gradients(dense_head, make_head_inputs(), batch, WeightedSum())
    torch.testing.assert_close(hidden.grad, expected["hidden"])
    assert output.weight.grad is None


def test_the_sum_becomes_the_gradient_of_the_weights_without_a_copy(batch, make_head_inputs):
    hidden, output = make_head_inputs()
    result = LeanHead().loss(hidden, output, batch, ALL, WeightedSum())
    place = result.loss.grad_fn.sums._sums[1].data_ptr()

    result.loss.backward()

    assert output.weight.grad.data_ptr() == place


@pytest.mark.parametrize("reads", ["own", "later"])
def test_a_loss_that_compares_tokens_but_does_not_say_so_is_refused(batch, make_head_inputs, reads):
    loss = WeightedSum(reads, compare=True)

    with pytest.raises(ValueError, match=f"reads: the objective says '{reads}'"):
        LeanHead(chunk_bytes=1).loss(*make_head_inputs(), batch, ALL, loss)


def test_a_loss_that_compares_tokens_and_says_so_has_the_dense_gradient(batch, make_head_inputs):
    loss = WeightedSum("all", compare=True)

    found = gradients(LeanHead(chunk_bytes=1), make_head_inputs(), batch, loss)

    expected = gradients(dense_head, make_head_inputs(), batch, loss)
    torch.testing.assert_close(found["weight"], expected["weight"])


class Adapted(nn.Linear):
    """Adds something to what its weights say, as adapters do."""

    def forward(self, input):
        return super().forward(input) + 1


def test_an_output_that_is_more_than_its_weights_is_refused_and_by_size_dense(
    batch, make_head_inputs
):
    hidden, _ = make_head_inputs()
    output = Adapted(HIDDEN, VOCABULARY)

    stats = HeadBySize(lean=LeanHead(chunk_bytes=1))(hidden, output, batch, ALL)

    expected = dense_head(hidden, output, batch, ALL)
    assert torch.equal(stats.sampled_logprobs_BT, expected.sampled_logprobs_BT)
    with pytest.raises(ValueError, match="the output embedding is a Adapted"):
        LeanHead()(hidden, output, batch, ALL)


@pytest.mark.parametrize(("num_bytes", "expected"), [(5 * ROW_BYTES, False), (ROW_BYTES, True)])
@pytest.mark.parametrize("bound", ["chunk_bytes", "dense_bytes"])
def test_by_size_a_loss_is_lean_where_its_logits_exceed_a_bound(
    batch, make_head_inputs, bound, num_bytes, expected
):
    hidden, output = make_head_inputs()
    head = (
        HeadBySize(lean=LeanHead(chunk_bytes=num_bytes))
        if bound == "chunk_bytes"
        else HeadBySize(dense_bytes=num_bytes)
    )

    result = head.loss(hidden, output, batch, ALL, WeightedSum())

    assert (type(result.loss.grad_fn).__name__ == "_KnownBackward") == expected


def test_by_size_a_loss_that_reads_all_tokens_is_dense_as_long_as_a_chunk_holds_it(
    batch, make_head_inputs
):
    hidden, output = make_head_inputs()
    loss = WeightedSum(reads="all")

    result = HeadBySize(dense_bytes=1).loss(hidden, output, batch, ALL, loss)

    assert torch.equal(result.loss, dense_head.loss(hidden, output, batch, ALL, loss).loss)


@pytest.mark.parametrize("token_budget", [100, 6])
@pytest.mark.parametrize("objective", [DistIL(), DistIL(credit="all"), GRPO()])
def test_a_step_of_a_model_with_tied_embeddings_is_the_dense_one(
    make_labelled, objective, token_budget
):
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=11,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
    )
    dense = Qwen3ForCausalLM(config).eval().double()
    lean = copy.deepcopy(dense)
    rollouts = [
        make_labelled(str(i), response, seed=i, group=i // 3, reward=float(i % 2))
        for i, response in enumerate([(0, 1, 2, 0), (1, 1), (2, 0, 0), (2, 2), (0,), (1, 0, 2)])
    ]
    batches = make_batches(rollouts, token_budget=token_budget)

    wanted = Learner(dense, CONFIG, head=dense_head).step(batches, objective)
    found = Learner(lean, CONFIG, head=LeanHead(chunk_bytes=2 * 8 * 11)).step(batches, objective)

    assert found.loss == pytest.approx(wanted.loss)
    assert found.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-9)
    assert found.metrics == pytest.approx(wanted.metrics)


def test_chunks_without_bytes_are_refused():
    with pytest.raises(ValueError, match="chunk_bytes must be positive, not 0"):
        LeanHead(chunk_bytes=0)


def test_under_autocast_logits_and_sums_have_32_bits(batch, make_head_inputs):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(LeanHead(), make_head_inputs(), batch, WeightedSum())

    expected = gradients(dense_head, make_head_inputs(), batch, WeightedSum())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)
