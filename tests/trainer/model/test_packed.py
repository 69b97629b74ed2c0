"""Rows without padding give the loss and the gradient of padded rows."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    MambaConfig,
    MambaForCausalLM,
)

from preceptor_trainer.model.packed import (
    packed_contexts,
    packed_rows,
    packed_trunk_of,
    padding_of,
)
from preceptor_trainer.model.packing import MOST_PADDING, lay_out
from preceptor_trainer.model.trunk import padded

from .small_rows import ROWS, SIZES, batch_of, qwen3


def uneven(num_groups=16, each=4, begins=()):
    """Prompts and responses of very different lengths."""
    draw = random.Random(0)
    rows = []
    for group in range(num_groups):
        prompt = (*begins, *draw.choices(range(31), k=draw.randint(2, 20)))
        rows += [
            (group, prompt, tuple(draw.choices(range(31), k=draw.randint(1, 40))))
            for _ in range(each)
        ]
    return tuple(rows)


def gemma3(window=4):
    """Every other layer sees only its window."""
    torch.manual_seed(0)
    kinds = ["sliding_attention", "full_attention"]
    config = Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=window, layer_types=kinds)
    return Gemma3ForCausalLM(config).double().eval()


def hidden_and_gradient(trunk, model, batch):
    model.zero_grad()
    hidden_NH = trunk(model, batch)
    weights_NH = torch.linspace(-1, 1, hidden_NH.numel(), dtype=hidden_NH.dtype)
    (hidden_NH.flatten() * weights_NH).sum().backward()
    gradients = [p.grad.flatten() for p in model.get_decoder().parameters()]
    return hidden_NH.detach(), torch.cat(gradients)


@pytest.mark.parametrize(
    "rows",
    [ROWS, ROWS[:1], uneven(6), uneven(5, begins=range(9))],
    ids=["few", "one row", "uneven", "one beginning"],
)
@pytest.mark.parametrize("trunk", [packed_contexts, packed_rows])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_hidden_states_and_gradients_are_those_of_padded_rows(rows, trunk, attention):
    model, batch = qwen3(attn_implementation=attention).double(), batch_of(rows)

    wanted = hidden_and_gradient(padded, model, batch)
    found = hidden_and_gradient(trunk, model, batch)

    # norms compute in float32, whatever the model's type
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)


def test_layers_with_a_window_see_no_more_than_their_window():
    model, batch = gemma3(), batch_of(uneven(6))

    assert packed_trunk_of(model) is packed_rows
    torch.testing.assert_close(
        packed_rows(model, batch), padded(model, batch), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("shares", [True, False])
def test_padding_is_below_two_per_cent_in_more_than_one_bin(shares):
    layout = lay_out(batch_of(uneven()), shares=shares)

    assert len(layout.ids_RS) > 1, "one bin has none, at the price of its attention"
    assert 1 - layout.num_tokens / layout.num_places < MOST_PADDING


def test_prompts_are_read_once():
    batch = batch_of(ROWS)

    shared = lay_out(batch, shares=True).num_tokens
    whole = lay_out(batch, shares=False).num_tokens

    assert (shared, whole) == (10 + 8, 16 + 8)


def test_what_all_prompts_begin_with_is_once_in_each_of_few_short_bins():
    begins, rows = tuple(range(9)), uneven()
    begun = [(group, begins + prompt, response) for group, prompt, response in rows]

    few, many = (lay_out(batch_of(begun[:n]), shares=True) for n in (24, 64))

    alone = [lay_out(batch_of(rows[:n]), shares=True).num_tokens for n in (24, 64)]
    assert [len(layout.ids_RS) for layout in (few, many)] == [1, 2]
    assert few.num_tokens == len(begins) + alone[0]
    assert many.num_tokens == 2 * len(begins) + alone[1]
    assert 1 - many.num_tokens / many.num_places < MOST_PADDING


def test_a_prompt_that_is_the_beginning_of_the_others_predicts_for_itself():
    rows = [(0, (4, 9, 2), (1, 5)), (1, (4, 9, 2, 7), (3, 3)), (2, (4, 9, 2, 8), (2,))]
    model, batch = qwen3().double(), batch_of(rows)

    found, wanted = packed_contexts(model, batch), padded(model, batch)

    assert lay_out(batch, shares=True).num_tokens == 2 + (1 + 1) + (2 + 1) + 2
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)


def test_a_model_that_carries_a_state_through_its_row_is_refused():
    config = MambaConfig(vocab_size=31, hidden_size=16, num_hidden_layers=1, state_size=4)
    model = MambaForCausalLM(config).eval()

    with pytest.raises(ValueError, match="packing: MambaForCausalLM cannot compute several rows"):
        packed_trunk_of(model)


def test_padding_of_a_trunk_is_counted():
    batch = batch_of(ROWS)

    assert padding_of(padded, qwen3(), batch) == (5 * 7 - 29, 5 * 7)
    assert padding_of(packed_contexts, qwen3(), batch)[0] == 0
