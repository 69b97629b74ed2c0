"""Small batches and sizes of models for the tests of how rows go through a model."""

from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from preceptor_trainer.model.batch import TrainRollout, collate

SIZES = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
# group, prompt, response: equal prompts in two groups, prompts of one length, one that begins
# another, a response of one token
ROWS = (
    (0, (4, 9, 2, 7), (1, 2, 3)),
    (0, (4, 9, 2, 7), (5,)),
    (1, (4, 9), (6, 6, 6, 8, 1)),
    (2, (8, 8, 8, 8), (1, 2)),
    (3, (4, 9), (0, 0)),
)


def qwen3(**changes: Any) -> Any:
    """The same weights at each call."""
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**{**SIZES, "head_dim": 8, **changes})).eval()


def batch_of(rows=ROWS):
    return collate(
        [
            TrainRollout(rollout_id=str(i), group=group, prompt_ids=prompt, response_ids=response)
            for i, (group, prompt, response) in enumerate(rows)
        ]
    )
