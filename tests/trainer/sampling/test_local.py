"""The local sampler against plain forward passes."""

import numpy as np
import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from preceptor_trainer.sampling.draw import truncate
from preceptor_trainer.sampling.local import LARGE, MAX_ROWS, LocalSampler
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.sampling.sampler import Generation

EOS, PAD, VOCAB = 1, 0, 23
PROMPTS = [[5, 6, 7], [4], [9, 3, 8, 2, 11, 12], [5, 6, 7], [2, 2]]


SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "tie_word_embeddings": True,
    "initializer_range": 0.3,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
    "bos_token_id": None,
}


def _make_model(seed: int = 0) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(Qwen3Config(**SIZES)).eval()


@pytest.fixture(scope="module")
def model() -> Qwen3ForCausalLM:
    return _make_model()


@pytest.fixture(scope="module")
def sampler(model: Qwen3ForCausalLM) -> LocalSampler:
    return LocalSampler(model, end_ids={EOS}, pad_id=PAD)


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _logits(model: PreTrainedModel, prompt: list[int], response: np.ndarray) -> torch.Tensor:
    """Logits `[T, V]` of each response token, from one plain pass."""
    ids = torch.tensor([prompt + response.tolist()])
    with torch.no_grad():
        return model(input_ids=ids).logits[0, len(prompt) - 1 : -1]


def _same(first: list[Generation], second: list[Generation]) -> bool:
    return all(
        np.array_equal(a.response_ids, b.response_ids)
        and np.allclose(a.logprobs, b.logprobs, atol=1e-5)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.7),
        SamplingParams(top_k=5),
        SamplingParams(top_p=0.8),
        SamplingParams(temperature=1.3, top_k=9, top_p=0.9),
    ],
)
@pytest.mark.parametrize("large", [1, LARGE])
def test_logprobs_are_those_of_a_plain_pass(
    model: Qwen3ForCausalLM, large: int, params: SamplingParams
) -> None:
    sampler = LocalSampler(model, end_ids={EOS}, pad_id=PAD, large=large)
    prompts = PROMPTS * 4

    drawn = sampler.sample(prompts, params, _seeded())

    for prompt, generation in zip(prompts, drawn, strict=True):
        logits = _logits(model, prompt, generation.response_ids)
        expected = truncate((logits / params.temperature).log_softmax(-1), params)
        ids = torch.tensor(generation.response_ids).long()[:, None]
        assert np.allclose(generation.logprobs, expected.gather(1, ids)[:, 0], atol=1e-4)


def test_a_response_does_not_depend_on_its_batch(sampler: LocalSampler) -> None:
    greedy = SamplingParams(top_k=1)

    together = sampler.sample(PROMPTS, greedy, _seeded())
    alone = [sampler.sample([prompt], greedy, _seeded())[0] for prompt in PROMPTS]

    assert _same(together, alone)
    assert all((generation.logprobs == 0).all() for generation in together)


def test_a_drawn_response_depends_on_its_own_random_numbers_only(sampler: LocalSampler) -> None:
    params = SamplingParams()

    first = sampler.sample([PROMPTS[0], PROMPTS[1], PROMPTS[2]], params, _seeded())
    others = sampler.sample([PROMPTS[3], PROMPTS[4], PROMPTS[2]], params, _seeded())

    assert _same(first[2:], others[2:])


def test_the_same_seed_gives_the_same_responses(sampler: LocalSampler) -> None:
    first = sampler.sample(PROMPTS * 3, SamplingParams(), _seeded(4))
    again = sampler.sample(PROMPTS * 3, SamplingParams(), _seeded(4))
    other = sampler.sample(PROMPTS * 3, SamplingParams(), _seeded(5))

    assert all(np.array_equal(a.logprobs, b.logprobs) for a, b in zip(first, again, strict=True))
    assert _same(first, again)
    assert not _same(first, other)


def test_a_response_is_shown_when_it_ends_and_is_the_one_that_is_returned(
    sampler: LocalSampler,
) -> None:
    shown: dict[int, Generation] = {}
    prompts = PROMPTS * 4

    drawn = sampler.sample(
        prompts, SamplingParams(max_new_tokens=12), _seeded(), on_finished=shown.__setitem__
    )

    ended = [n for n, one in enumerate(drawn) if one.finish_reason == "stop"]
    assert 0 < len(ended) < len(prompts)
    assert sorted(shown) == ended
    lengths = [len(one.response_ids) for one in shown.values()]
    assert lengths == sorted(lengths), "the shorter ones end first"
    assert _same([shown[n] for n in ended], [drawn[n] for n in ended])


def test_a_prompt_of_many_responses_does_not_depend_on_prompts_of_few(
    sampler: LocalSampler,
) -> None:
    singles = [[*PROMPTS[1], 3 + index] for index in range(12)]

    mixed = sampler.sample([PROMPTS[0]] * 9 + singles, SamplingParams(), _seeded())
    alone = sampler.sample([PROMPTS[0]] * 9, SamplingParams(), _seeded())

    assert _same(mixed[:9], alone)


def test_more_rows_than_fit_are_drawn_in_turn(sampler: LocalSampler) -> None:
    half = MAX_ROWS // 2 + 40
    params = SamplingParams(max_new_tokens=3)

    both = sampler.sample([PROMPTS[0]] * half + [PROMPTS[1]] * half, params, _seeded())
    alone = sampler.sample([PROMPTS[0]] * half, params, _seeded())

    # the longer prompt comes last, so that it is the one whose responses are cut in two
    assert half < MAX_ROWS < 2 * half
    assert len(PROMPTS[1]) < len(PROMPTS[0])
    assert _same(both[:half], alone)


def test_a_single_token_is_drawn_from_the_prompt_alone(model: Qwen3ForCausalLM) -> None:
    prompts, end = PROMPTS * 30, PROMPTS[0][-1]

    # a token that this model likes to repeat ends the response, so that some end at once
    drawn = LocalSampler(model, end_ids={end}, pad_id=PAD).sample(
        prompts, SamplingParams(max_new_tokens=1), _seeded()
    )

    assert {generation.finish_reason for generation in drawn} == {"stop", "length"}
    for prompt, generation in zip(prompts, drawn, strict=True):
        (token,) = generation.response_ids
        logprobs = _logits(model, prompt, generation.response_ids).log_softmax(-1)
        assert np.allclose(generation.logprobs, logprobs[0, token], atol=1e-4)
        assert (generation.finish_reason == "stop") == (token == end)


def test_equal_prompts_get_responses_of_their_own(sampler: LocalSampler) -> None:
    drawn = sampler.sample([PROMPTS[0]] * 16, SamplingParams(), _seeded())

    assert len({generation.response_ids.tobytes() for generation in drawn}) > 8


def test_the_end_token_stops_a_response_and_belongs_to_it(sampler: LocalSampler) -> None:
    drawn = sampler.sample(PROMPTS * 20, SamplingParams(max_new_tokens=12), _seeded())
    stopped = [generation for generation in drawn if generation.finish_reason == "stop"]
    cut = [generation for generation in drawn if generation.finish_reason == "length"]

    assert stopped
    assert cut
    for generation in stopped:
        assert generation.response_ids[-1] == EOS
        assert EOS not in generation.response_ids[:-1]
    assert all(len(generation.response_ids) == 12 for generation in cut)
    assert all(EOS not in generation.response_ids for generation in cut)


def test_a_forced_prefix_leads_the_response_with_its_logprobs(
    model: Qwen3ForCausalLM, sampler: LocalSampler
) -> None:
    forced = [[3, 4], [], [6]]

    drawn = sampler.sample(PROMPTS[:3], SamplingParams(max_new_tokens=5), _seeded(), forced)

    for prompt, prefix, generation in zip(PROMPTS, forced, drawn, strict=False):
        ids = generation.response_ids
        logprobs = _logits(model, prompt, ids).log_softmax(-1)
        expected = logprobs.gather(1, torch.tensor(ids).long()[:, None])[:, 0]
        assert generation.num_forced == len(prefix)
        assert ids[: len(prefix)].tolist() == prefix
        assert len(ids) <= len(prefix) + 5
        assert np.allclose(generation.logprobs, expected, atol=1e-4)


def test_equal_prompts_with_different_prefixes_are_different_contexts(
    model: Qwen3ForCausalLM, sampler: LocalSampler
) -> None:
    # among them prefixes of one length, one that begins another, and one given twice
    forced = [[3, 4], [3], [], [6, 2], [3, 4]]
    params = SamplingParams(max_new_tokens=6)

    drawn = sampler.sample([PROMPTS[0]] * 5, params, _seeded(), forced)

    for prefix, generation in zip(forced, drawn, strict=True):
        ids = generation.response_ids
        logprobs = _logits(model, PROMPTS[0], ids).log_softmax(-1)
        expected = logprobs.gather(1, torch.tensor(ids).long()[:, None])[:, 0]
        assert ids[: generation.num_forced].tolist() == prefix
        assert np.allclose(generation.logprobs, expected, atol=1e-4)


BEGINNING = [3 + index % 17 for index in range(40)]
"""What the prompts of the next two tests begin with; it is one of them too."""


def _read(sampler: LocalSampler) -> list[tuple[int, ...]]:
    """The shapes of all ids that the sampler's model reads from now on."""
    shapes: list[tuple[int, ...]] = []
    embedding = sampler._model.get_input_embeddings()
    embedding.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    return shapes


def test_a_large_model_reads_what_all_prompts_begin_with_once(model: Qwen3ForCausalLM) -> None:
    small, large = (LocalSampler(model, end_ids={EOS}, pad_id=PAD, large=n) for n in (10**9, 0))
    prompts = [BEGINNING + tail for tail in ([7, 2], [9, 3, 8], [], [9, 3, 8], [9])]
    forced = [[], [4], [6, 2], [], [3]]
    shapes = _read(large)

    drawn, expected = (
        s.sample(prompts, SamplingParams(), _seeded(), forced) for s in (large, small)
    )

    assert _same(drawn, expected)
    assert shapes[:2] == [(1, 39), (5, 5)]
    assert (5, 44) not in shapes


def test_a_beginning_is_read_with_each_prompt_where_that_costs_little_or_windows_need_it(
    model: Qwen3ForCausalLM,
) -> None:
    window = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6)).eval()
    for one, num_prompts in ((model, 2), (window, 4)):
        sampler = LocalSampler(one, end_ids={EOS}, pad_id=PAD, large=0)
        shapes = _read(sampler)

        sampler.sample(
            [[*BEGINNING, 4 + i] for i in range(num_prompts)], SamplingParams(), _seeded()
        )

        assert shapes[0] == (num_prompts, 41)


def test_rows_of_a_large_model_leave_the_batch_sooner_and_draw_the_same(
    model: Qwen3ForCausalLM,
) -> None:
    small, large = (LocalSampler(model, end_ids={EOS}, pad_id=PAD, large=n) for n in (10**9, 0))
    shapes_of = [_read(sampler) for sampler in (small, large)]

    drawn = [s.sample(PROMPTS * 8, SamplingParams(), _seeded()) for s in (small, large)]

    assert _same(*drawn)
    computed = [sum(rows * tokens for rows, tokens in shapes) for shapes in shapes_of]
    assert computed[1] < computed[0]


def test_a_step_of_the_optimiser_is_seen_at_once() -> None:
    model = _make_model(1)
    sampler = LocalSampler(model, end_ids={EOS}, pad_id=PAD)

    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(0.0)
    drawn = sampler.sample([PROMPTS[0]], SamplingParams(), _seeded())

    assert np.allclose(drawn[0].logprobs, -np.log(VOCAB), atol=1e-5)


def test_the_callers_model_keeps_its_attention(model: Qwen3ForCausalLM) -> None:
    before = model.config._attn_implementation

    LocalSampler(model, end_ids={EOS}, pad_id=PAD)

    assert model.config._attn_implementation == before


def test_a_model_of_other_attention_is_refused() -> None:
    sampler = LocalSampler(Gemma2ForCausalLM(Gemma2Config(**SIZES)), end_ids={EOS}, pad_id=PAD)

    with pytest.raises(ValueError, match="softcap: the model's attention needs it"):
        sampler.sample([PROMPTS[2]], SamplingParams(), _seeded())


@pytest.mark.parametrize("window", [1, 2, 5, 9])
def test_log_probs_under_a_window_are_those_of_plain_passes(window: int) -> None:
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=window)).eval()
    sampler = LocalSampler(model, end_ids={EOS}, pad_id=PAD)

    drawn = sampler.sample(PROMPTS, SamplingParams(max_new_tokens=6), _seeded())

    for prompt, one in zip(PROMPTS, drawn, strict=True):
        logprobs = _logits(model, prompt, one.response_ids).log_softmax(-1)
        ids = torch.tensor(one.response_ids).long()[:, None]
        assert np.allclose(one.logprobs, logprobs.gather(1, ids)[:, 0], atol=1e-4)


def test_padding_of_the_head_is_never_drawn_and_counts_in_the_normaliser(
    model: Qwen3ForCausalLM,
) -> None:
    sampler = LocalSampler(model, end_ids={EOS}, pad_id=PAD, vocab_size=VOCAB - 12)

    drawn = sampler.sample([[5]] * 1000, SamplingParams(max_new_tokens=3), _seeded())

    assert max(int(one.response_ids.max()) for one in drawn) < VOCAB - 12
    for one in drawn[:5]:
        logprobs = _logits(model, [5], one.response_ids).log_softmax(-1)
        ids = torch.tensor(one.response_ids).long()[:, None]
        assert np.allclose(one.logprobs, logprobs.gather(1, ids)[:, 0], atol=1e-4)


def test_a_prompt_beyond_the_models_positions_is_refused() -> None:
    model = Qwen3ForCausalLM(Qwen3Config(**SIZES, max_position_embeddings=16))
    sampler = LocalSampler(model, end_ids={EOS}, pad_id=PAD)

    with pytest.raises(ValueError, match=r"prompts\[1\]: 5 tokens and a response of 12 exceed"):
        sampler.sample([[2] * 4, [2] * 5], SamplingParams(max_new_tokens=12), _seeded())


def test_every_tensor_of_the_sampler_is_made_on_the_models_device(model: Qwen3ForCausalLM) -> None:
    # Where no device is named, a tensor is made on `meta`, and cannot be combined with the model's.
    with torch.device("meta"):
        sampler = LocalSampler(model, end_ids={EOS}, pad_id=PAD)
        drawn = sampler.sample(
            PROMPTS, SamplingParams(max_new_tokens=6), _seeded(), [[], [3], [], [], [2, 2]]
        )

    wanted = LocalSampler(model, end_ids={EOS}, pad_id=PAD).sample(
        PROMPTS, SamplingParams(max_new_tokens=6), _seeded(), [[], [3], [], [], [2, 2]]
    )
    assert _same(drawn, wanted)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_a_senseless_parameter_is_named(fields: dict[str, float], field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must"):
        SamplingParams(**fields)  # type: ignore[arg-type]


def test_an_empty_prompt_is_refused(sampler: LocalSampler) -> None:
    with pytest.raises(ValueError, match=r"prompts\[1\] is empty"):
        sampler.sample([[3], []], SamplingParams(), _seeded())


def test_prefixes_must_match_the_prompts(sampler: LocalSampler) -> None:
    with pytest.raises(ValueError, match="forced_prefixes: 1 for 2"):
        sampler.sample([[3], [4]], SamplingParams(), _seeded(), [[5]])
