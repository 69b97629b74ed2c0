"""Decoding a real model on a CPU: linear layers as (W x^T)^T beside torch's own x W^T.

    python examples/smollm2.py models/smollm2
    python benchmarks/few_rows.py            # writes benchmarks/results/few_rows.json

Whole draws of the local sampler with SmolLM2-135M: 8 prompts of `examples/multiply` by 4 responses
of at most 24 tokens, as in a step of that run; then a layer's product alone, for several numbers of
rows. Both ways take turns, and ratios are medians over rounds. Both draw the same random numbers;
sums are rounded otherwise, so that a few responses differ.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from answer_path import machine
from torch import nn
from turns import in_turns, middle, times_as_long

from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.sampling import local
from preceptor_trainer.sampling.few_rows import FewRowsLinear
from preceptor_trainer.sampling.local import LocalSampler
from preceptor_trainer.sampling.params import SamplingParams

HERE = Path(__file__).parent
PROMPTS, RESPONSES, TOKENS = 8, 4, 24
ROWS = (8, 16, 24, 32, 48)
LAYERS = {"attention": (576, 576), "up": (576, 1536), "down": (1536, 576), "head": (576, 49_152)}
"""SmolLM2-135M's, as inputs and outputs."""
COPIES = 12
"""Weights of one layer in turn, so that they do not stay in a core's cache."""


def main(
    model: Annotated[Path, typer.Option(help="SmolLM2's folder.")] = Path("models/smollm2"),
    seconds: Annotated[float, typer.Option(help="For the rounds of whole draws.")] = 120,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 2,
    out: Annotated[Path, typer.Option(help="The result.")] = HERE / "results" / "few_rows.json",
) -> None:
    """Measures, prints, writes."""
    torch.set_num_threads(threads)
    described = machine() | {"threads": threads, "torch": torch.__version__}
    result = {
        "machine": described,
        "draws": of_draws(model, seconds),
        "layers, times as long by x W^T": {
            name: {str(rows): of_layer(*sizes, rows) for rows in ROWS}
            for name, sizes in LAYERS.items()
        },
    }
    text = json.dumps(result, indent=1)
    print(text)
    out.write_text(text + "\n")


def of_draws(folder: Path, seconds: float) -> dict[str, Any]:
    """Rounds of whole draws."""
    policy = Policy(folder)
    file = HERE.parent / "examples" / "multiply" / "train.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()[:PROMPTS]]
    chats = [policy.encode([{"role": "user", "content": row["prompt"]}]) for row in rows]
    prompts = [ids for ids in chats for _ in range(RESPONSES)]
    ways = {"few rows": sampler_of(policy), "torch's": plain_sampler_of(policy)}
    rounds = {name: partial(drawn, sampler, prompts) for name, sampler in ways.items()}
    responses = [[one.response_ids.tolist() for one in draw()] for draw in rounds.values()]
    walls, cpus = in_turns(rounds, seconds)
    return {
        **{f"{name}, seconds": round(middle(walls, name), 2) for name in ways},
        "torch's, times as long": times_as_long(walls, "torch's", "few rows"),
        "by CPU time": times_as_long(cpus, "torch's", "few rows"),
        "equal responses": sum(a == b for a, b in zip(*responses, strict=True)),
        "responses": len(prompts),
        "wall-clock seconds of rounds": walls,
        "CPU seconds of rounds": cpus,
    }


def sampler_of(policy: Policy) -> LocalSampler:
    """A sampler as a run has it."""
    return LocalSampler(
        policy.model, end_ids=policy.end_ids, pad_id=policy.pad_id, vocab_size=policy.vocab_size
    )


def plain_sampler_of(policy: Policy) -> LocalSampler:
    """A sampler with torch's linear layers."""
    own, local.take_few_rows = local.take_few_rows, lambda model: None
    try:
        return sampler_of(policy)
    finally:
        local.take_few_rows = own


def drawn(sampler: LocalSampler, prompts: list[list[int]]) -> Any:
    """Responses of one seed."""
    params = SamplingParams(max_new_tokens=TOKENS)
    return sampler.sample(prompts, params, torch.Generator().manual_seed(0))


@torch.inference_mode()
def of_layer(num_inputs: int, num_outputs: int, num_rows: int) -> float:
    """How many times as long torch's own product takes."""
    copies = COPIES if num_outputs < 10_000 else 1
    plain = [nn.Linear(num_inputs, num_outputs, bias=False) for _ in range(copies)]
    few = [FewRowsLinear(layer) for layer in plain]
    rows = torch.randn(num_rows, num_inputs)
    ways = {"few rows": partial(computed, few, rows), "torch's": partial(computed, plain, rows)}
    for way in ways.values():
        way()
    walls, _ = in_turns(ways, 3)
    return times_as_long(walls, "torch's", "few rows")


def computed(layers: list[Any], rows: torch.Tensor) -> None:
    """Each layer's product, ten times."""
    for _ in range(10):
        for layer in layers:
            layer(rows)


if __name__ == "__main__":
    typer.run(main)
