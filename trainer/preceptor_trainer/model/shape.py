"""The sizes of a causal language model, from its folder and without its weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What memory and time depend on."""

    num_parameters: int
    """Tied ones once."""
    linear: dict[str, int]
    """Inputs and outputs together of every linear layer but the output embedding, by name."""
    num_embedding: int
    """Numbers of the output embedding."""
    is_tied: bool
    num_layers: int
    hidden: int
    inner: int
    """Width of the feed-forward part; of all experts that a token visits, where there are some."""
    queries: int
    """Heads times their size."""
    keys: int
    """Key heads times their size."""
    num_heads: int
    vocabulary: int
    """Rows of the output embedding."""

    def num_adapter(self, rank: int, targets: Collection[str] | None) -> int:
        """Numbers of an adapter of this rank; `targets` are ends of names, None for all layers."""
        chosen = [
            width
            for name, width in self.linear.items()
            if targets is None or any(name == t or name.endswith(f".{t}") for t in targets)
        ]
        return rank * sum(chosen)


def shape_of(folder: Path) -> Shape:
    """The sizes of the model in a folder of Hugging Face format."""
    config: Any = cast(Any, AutoConfig).from_pretrained(folder)
    with torch.device("meta"):  # sizes without numbers
        made = cast(Any, AutoModelForCausalLM).from_config(config)
    model = cast(nn.Module, made)
    head, embedding = made.get_output_embeddings(), made.get_input_embeddings()
    text = config.get_text_config()
    # Models without attention have no heads.
    num_heads = int(getattr(text, "num_attention_heads", None) or 1)
    size = int(getattr(text, "head_dim", None) or text.hidden_size // num_heads)
    key_heads = int(getattr(text, "num_key_value_heads", None) or num_heads)
    visited = int(getattr(text, "num_experts_per_tok", None) or 1)
    inner = getattr(text, "moe_intermediate_size", None) if visited > 1 else None
    inner = inner or getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    modules = cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
    return Shape(
        num_parameters=sum(p.numel() for p in model.parameters()),
        linear={
            name: one.in_features + one.out_features
            for name, one in modules
            if isinstance(one, nn.Linear) and one is not head
        },
        num_embedding=int(head.weight.numel()),
        is_tied=head.weight is embedding.weight,
        num_layers=int(text.num_hidden_layers),
        hidden=int(text.hidden_size),
        inner=int(inner) * visited,
        queries=num_heads * size,
        keys=key_heads * size,
        num_heads=num_heads,
        vocabulary=int(head.weight.shape[0]),
    )
