"""Makes the larger model: `python -m preceptor_trainer.student.larger --out DIR`.

The student with twice as many layers, trained on clean text in four runs: a teacher for methods
that need one that is better than the student without feedback. After each layer a copy is inserted
that initially adds nothing, so that training continues from the student's abilities (Net2Net, arXiv
1511.05641). Finally its logits are multiplied by `SHARPNESS`: at temperature 1 it answers like the
trained model at 1 / SHARPNESS.
The same seed, steps and machine give the same weights.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# (torch, transformers and safetensors have incomplete types)
from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import load_file, save_file
from transformers import Qwen3ForCausalLM

from preceptor_trainer.student import STUDENT_DIR
from preceptor_trainer.student.architecture import NUM_LAYERS, make_model
from preceptor_trainer.student.corpus import PLAIN_ONLY
from preceptor_trainer.student.pretrain import PretrainConfig, made_before, pretrain

FIRST = PretrainConfig(
    steps=2400,
    learning_rate=2e-3,
    decay_share=0.85,
    wrong_share=0.0,
    singles_until=0.0,
    seed=2,
    kind_shares=PLAIN_ONLY,
    compiled=True,
)
"""Text that the student has not seen, with prompts in the larger model's format."""
AGAIN = replace(FIRST, steps=1000, learning_rate=1.5e-3, decay_share=1.0, seed=3)
"""A second learning-rate cycle on new text, since the loss still fell at the end of the first."""
WIDE = replace(
    FIRST, steps=1600, decay_share=0.6, seed=4, feature_shares={1: 0.06, 2: 0.54, 3: 0.40}
)
"""Thousands of longer programs, rare in its text: it solved 75 % of problems with behaviours from
its text, and 68 % of others."""
LAST = replace(FIRST, steps=700, learning_rate=1e-3, decay_share=1.0, seed=5)
"""The usual mixture again: 68 % of validation problems before these two runs, 71 % after."""
RUNS = {"first": FIRST, "again": AGAIN, "wide": WIDE, "last": LAST}

WEIGHTS = "model.safetensors"
LAST_NORM = "model.norm.weight"
SHARPNESS = 4.0
"""Chosen on 150 validation problems after the first cycle: pass@1 was 63 % at 1, 70 % at 2, 71 % at
4. A power of two changes no digit of a weight."""


def grown(folder: Path, tokenizer: Any) -> Qwen3ForCausalLM:
    """The student in `folder` with twice its layers and the same outputs."""
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


def save_sharpened(folder: Path, out: Path, sharpness: float = SHARPNESS) -> None:
    """Copies the model in `folder` with its logits multiplied by `sharpness`.

    The factor is applied to the weights of the last norm, whose output only the output layer uses.
    """
    out.mkdir(parents=True, exist_ok=True)
    for path in filter(Path.is_file, folder.iterdir()):
        shutil.copy(path, out)
    weights = load_file(folder / WEIGHTS)
    weights[LAST_NORM] = weights[LAST_NORM] * sharpness
    save_file(weights, out / WEIGHTS, metadata={"format": "pt"})
    (out / WEIGHTS).chmod(0o644)  # safetensors makes files that only the owner can read


def main(
    out: Annotated[Path, typer.Option(help="Folder for the model.")],
    work: Annotated[Path, typer.Option(help="Folder for intermediate models.")] = Path(
        "runs/larger/work"
    ),
    scale: Annotated[
        float, typer.Option(help="Share of the steps, for a shorter trial run.")
    ] = 1.0,
) -> None:
    """Makes the larger model from the shipped student; finished runs are reused."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    start: Callable[[Any], Qwen3ForCausalLM] = partial(grown, STUDENT_DIR)
    for name, config in RUNS.items():
        folder = work / name
        if not (folder / WEIGHTS).exists():
            pretrain(replace(config, steps=round(scale * config.steps)), folder, start)
        start = partial(made_before, folder, num_layers=2 * NUM_LAYERS)
    save_sharpened(work / list(RUNS)[-1], out)


if __name__ == "__main__":
    typer.run(main)
