"""Makes the larger model: `python -m preceptor_trainer.student.larger --out DIR`.

The student with twice as many layers, trained on clean text: a teacher for methods that need one
which is better than the student without feedback. A copy of each layer is put after it that adds
nothing at first, so that training goes on from what the student can do (Net2Net, arXiv 1511.05641).
The same seed, steps and machine give the same weights.
"""

# pyright: reportUnknownMemberType=false
# (torch and transformers are typed in part)
from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import Qwen3ForCausalLM

from preceptor_trainer.student import STUDENT_DIR
from preceptor_trainer.student.architecture import NUM_LAYERS, make_model
from preceptor_trainer.student.corpus import PLAIN_ONLY
from preceptor_trainer.student.pretrain import PretrainConfig, made_before, pretrain

LARGER = PretrainConfig(
    steps=2400,
    learning_rate=2e-3,
    decay_share=0.85,
    wrong_share=0.0,
    singles_until=0.0,
    seed=2,
    kind_shares=PLAIN_ONLY,
    compiled=True,
)
"""On text that the student has not seen, and prompts as the larger model will read them."""


def grown(folder: Path, tokenizer: Any) -> Qwen3ForCausalLM:
    """The student in `folder` with twice its layers, which says what the student says."""
    small: Any = made_before(folder, tokenizer).model
    large = make_model(tokenizer, num_layers=2 * NUM_LAYERS)
    body: Any = large.model
    body.embed_tokens.load_state_dict(small.embed_tokens.state_dict())
    body.norm.load_state_dict(small.norm.state_dict())
    for index, layer in enumerate(small.layers):
        for place in (2 * index, 2 * index + 1):
            body.layers[place].load_state_dict(layer.state_dict())
        added = body.layers[2 * index + 1]
        with torch.no_grad():
            added.self_attn.o_proj.weight.zero_()
            added.mlp.down_proj.weight.zero_()
    return large


def main(
    out: Annotated[Path, typer.Option(help="Folder for the model.")],
    work: Annotated[Path, typer.Option(help="Folder for what is made on the way.")] = Path(
        "runs/larger/work"
    ),
    steps: Annotated[int, typer.Option(help="Steps on clean text.")] = LARGER.steps,
) -> None:
    """Makes the larger model out of the shipped student."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    pretrain(replace(LARGER, steps=steps), work, partial(grown, STUDENT_DIR))
    out.mkdir(parents=True, exist_ok=True)
    for path in filter(Path.is_file, work.iterdir()):
        shutil.copy(path, out)


if __name__ == "__main__":
    typer.run(main)
