"""Prompts read once, for all responses to them, change nothing but the time."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from preceptor_trainer.model.trunk import padded, shared_contexts, trunk_of

from .small_rows import ROWS, SIZES, batch_of, qwen3


def hidden_and_gradient(trunk, model, batch):
    model.zero_grad()
    hidden_NH = trunk(model, batch)
    weights_NH = torch.linspace(-1, 1, hidden_NH.numel(), dtype=hidden_NH.dtype)
    (hidden_NH.flatten() * weights_NH).sum().backward()
    gradients = [p.grad.flatten() for p in model.get_decoder().parameters()]
    return hidden_NH.detach(), torch.cat(gradients)


@pytest.mark.parametrize(
    "rows",
    [ROWS, ROWS[:2], tuple((g, p, r[:1]) for g, p, r in ROWS), ROWS[1:4]],
    ids=["mixed", "one prompt", "responses of one token", "nothing shared"],
)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_hidden_states_and_their_gradients_are_those_of_whole_rows(rows, attention):
    model, batch = qwen3(attn_implementation=attention), batch_of(rows)

    wanted = hidden_and_gradient(padded, model, batch)
    found = hidden_and_gradient(shared_contexts, model, batch)

    # transformers' norms compute in float32, whatever the model's type
    torch.testing.assert_close(found, wanted, atol=3e-5, rtol=1e-4)


def test_the_same_batch_gives_the_same_bits_however_threads_are_scheduled():
    model = qwen3()
    prompts = [tuple((7 * i + p) % 31 for i in range(48)) for p in range(4)]
    batch = batch_of([(p, prompts[p], (p, r % 31, 5)) for r in range(64) for p in range(4)])
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        _, wanted = hidden_and_gradient(shared_contexts, model, batch)
        for _ in range(8):
            _, again = hidden_and_gradient(shared_contexts, model, batch)
            assert torch.equal(again, wanted)
    finally:
        torch.set_num_threads(threads)


def test_a_prompt_of_many_responses_is_read_once():
    model, batch = qwen3(), batch_of()
    read: list[int] = []
    model.get_decoder().register_forward_pre_hook(
        lambda _, __, given: read.append(given["input_ids"].numel()), with_kwargs=True
    )

    shared_contexts(model, batch)

    assert read == [3 * 4, 5 * 4]  # three prompts of at most four tokens, all but the last of five


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: qwen3(), id="qwen3"),
        pytest.param(lambda: LlamaForCausalLM(LlamaConfig(**SIZES)), id="llama"),
        pytest.param(
            lambda: GPT2LMHeadModel(GPT2Config(vocab_size=31, n_embd=16, n_layer=2, n_head=2)),
            id="gpt2, learned positions",
        ),
    ],
)
def test_models_with_a_plain_cache_read_a_prompt_once(model):
    assert trunk_of(model().eval()) is shared_contexts


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(
            lambda: qwen3(use_sliding_window=True, sliding_window=32, max_window_layers=1),
            id="a window longer than any trial",
        ),
        pytest.param(
            lambda: MambaForCausalLM(
                MambaConfig(vocab_size=31, hidden_size=16, state_size=4, num_hidden_layers=2)
            ),
            id="no attention",
        ),
    ],
)
def test_other_models_read_it_anew_and_say_so(model, caplog):
    with caplog.at_level(logging.WARNING):
        assert trunk_of(model().eval()) is padded

    assert "computes every prompt again" in caplog.text


def test_a_model_that_ignores_the_mask_is_found_by_the_trial():
    model = qwen3()
    model.get_decoder().register_forward_pre_hook(
        lambda _, args, given: (args, {**given, "attention_mask": None}), with_kwargs=True
    )

    assert trunk_of(model) is padded
