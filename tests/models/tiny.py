"""Tiny models of random weights, each with the peculiarities of a family that people bring."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ..field.small_models import STARTED, TURNS, byte_level, saved

THINKING: Final = TURNS + (
    "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
    "<think></think>{% endif %}"
)
_SMALL: Final[dict[str, Any]] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models: architecture, tokenizer, template and ends."""

    config: Any
    model: Any
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    tied: bool = False
    positions: int = 256
    template: str = TURNS
    bos: str | None = None
    ends: tuple[int, ...] | None = None
    """Ends of `generation_config.json`: of `byte_level`, 0 is named and 2 ends a turn."""


FAMILIES: Final = {
    "qwen3": Family(
        config=Qwen3Config, model=Qwen3ForCausalLM, template=THINKING, positions=40_960, ends=(0, 2)
    ),
    "llama": Family(config=LlamaConfig, model=LlamaForCausalLM, template=STARTED, bos="<|begin|>"),
    "smollm2": Family(config=LlamaConfig, model=LlamaForCausalLM, tied=True, ends=(2,)),
    "gemma3": Family(
        config=Gemma3TextConfig,
        model=Gemma3ForCausalLM,
        # A window shorter than a prompt: its layers see less than the whole.
        options={
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 16,
        },
        tied=True,
        template=STARTED,
        bos="<|begin|>",
        ends=(0, 2),
    ),
    "olmo2": Family(config=Olmo2Config, model=Olmo2ForCausalLM),
}


def tiny_model(
    name: str, folder: Path, *, num_padded: int = 0, tied: bool | None = None, **changed: Any
) -> Path:
    """A folder with a model of this family; its head has `num_padded` rows beyond the tokenizer."""
    family = FAMILIES[name]
    tokenizer = byte_level(template=family.template, bos=family.bos)
    options: dict[str, Any] = (
        _SMALL
        | family.options
        | {
            "vocab_size": 1 + max(tokenizer.get_vocab().values()) + num_padded,
            "max_position_embeddings": family.positions,
            "tie_word_embeddings": family.tied if tied is None else tied,
        }
        | changed
    )
    if family.config is Olmo2Config:
        options.pop("head_dim")
    torch.manual_seed(0)
    model = family.model(family.config(**options))
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    return saved(tokenizer, folder, ends=None if family.ends is None else list(family.ends))
