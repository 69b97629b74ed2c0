"""Tiny models of random weights with tokenizers of their own, as people bring them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

TURNS = (
    "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|done|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def tokenizer(*, pad: bool) -> Any:
    """Bytes and merges with a chat template; an end of the text and an end of a turn."""
    names = ["<|end|>", "<|turn|>", "<|done|>", *(["<|pad|>"] if pad else [])]
    return PreTrainedTokenizerFast(
        tokenizer_object=_merges(names),
        chat_template=TURNS,
        eos_token="<|end|>",
        pad_token="<|pad|>" if pad else None,
        clean_up_tokenization_spaces=False,
    )


def base_tokenizer() -> Any:
    """The control tokens of Gemma, and no chat template."""
    names = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    return PreTrainedTokenizerFast(
        tokenizer_object=_merges(names),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def _merges(names: list[str]) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=names,
    )
    made.train_from_iterator(["What is 3 * 4? The answer is 12."] * 4, trainer)
    return made


def llama(folder: Path) -> None:
    """A million parameters."""
    sizes = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4}
    own = tokenizer(pad=True)
    config = LlamaConfig(**_common(own, max_position_embeddings=1024), **sizes)
    _save(LlamaForCausalLM(config), own, folder, ends=[own.eos_token_id])


def guesses(letters: str) -> list[str]:
    """Answers as single tokens, so many that a model of equal chances writes one now and then."""
    return [f"{' ' * i}<answer>{one}</answer>" for i in range(24) for one in letters]


def qwen3(folder: Path, words: Sequence[str] = ()) -> None:
    """The context of Qwen3, two ends, no padding token; with `words` all tokens are as likely."""
    own = tokenizer(pad=False)
    own.add_tokens(list(words))
    common = _common(own, max_position_embeddings=40_960)
    config = Qwen3Config(**common, **_SMALL, head_dim=16, tie_word_embeddings=True)
    ends = own.convert_tokens_to_ids(["<|end|>", "<|done|>"])
    model = Qwen3ForCausalLM(config)
    _save(model, own, folder, ends=ends)
    if words:
        torch.nn.init.constant_(model.model.norm.weight, 0.01)
        model.save_pretrained(folder)


def gemma3(folder: Path) -> None:
    """A layer that sees a window of eight tokens, and one that sees all; without a template."""
    own = base_tokenizer()
    common = _common(own, max_position_embeddings=2048)
    kinds = ["sliding_attention", "full_attention"]
    config = Gemma3TextConfig(
        **common, **_SMALL, head_dim=16, sliding_window=8, layer_types=kinds,
        query_pre_attn_scalar=16,
    )  # fmt: skip
    ends = own.convert_tokens_to_ids(["<eos>", "<end_of_turn>"])
    _save(Gemma3ForCausalLM(config), own, folder, ends=ends)


_SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}


def _common(own: Any, **sizes: int) -> dict[str, Any]:
    return {
        "vocab_size": len(own),
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": None,
        "eos_token_id": own.eos_token_id,
        "pad_token_id": own.pad_token_id,
        **sizes,
    }


def _save(model: Any, own: Any, folder: Path, *, ends: list[int]) -> None:
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    own.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
