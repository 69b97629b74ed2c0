"""Seconds of an optimiser step, with prompts read once and with every row read whole.

    python benchmarks/update.py            # writes benchmarks/results/update.json

The shipped student learns from rollouts of its own by GRPO (no expert needed), in groups of four as
in `preceptor compare fast` and of eight as in the quickstart. Both arms are the same learner on the
same batches; the opponent is one padded forward and backward pass over prompt and response of every
rollout, as general trainers do it. They take turns, and ratios are medians over rounds.
"""

from __future__ import annotations

import argparse
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from answer_path import machine
from turns import in_turns, middle, times_as_long

from preceptor_trainer.learner.learner import Learner, OptimiserConfig
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.model.batch import TrainBatch, TrainRollout, make_batches
from preceptor_trainer.model.trunk import Trunk, padded, shared_contexts
from preceptor_trainer.objectives.grpo import GRPO
from preceptor_trainer.sampling.local import LocalSampler
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.student import STUDENT_DIR
from preceptor_trainer.tasks.programming_by_example.problems import sample_problems

RESULT = Path(__file__).parent / "results" / "update.json"
ARMS: dict[str, Trunk] = {"prompts once": shared_contexts, "whole rows": padded}
TOKEN_BUDGET = 4_096


def measure(policy: Policy, options: argparse.Namespace, group_size: int) -> dict[str, Any]:
    """Rounds of both arms on one step's rollouts, after one that warms up."""
    batches = step_of(policy, options.rollouts // group_size, group_size)
    steps = {arm: partial(one_step, policy, batches, trunk) for arm, trunk in ARMS.items()}
    for step in steps.values():
        step()
    walls, cpus = in_turns(steps, options.seconds)
    tokens = [int((batch.predictor_BT[:, 0] + 1).sum()) for batch in batches]
    return {
        "prompt tokens": sum(tokens),
        "response tokens": sum(int(batch.response_mask_BT.sum()) for batch in batches),
        **{f"{arm}, seconds": round(middle(walls, arm), 3) for arm in ARMS},
        "times as long by wall-clock": times_as_long(walls, "whole rows", "prompts once"),
        "times as long by CPU time": times_as_long(cpus, "whole rows", "prompts once"),
        "rounds": len(walls),
    }


def step_of(policy: Policy, num_prompts: int, group_size: int) -> list[TrainBatch]:
    """The batches of one step: the student's samples, every other one rewarded."""
    problems = sample_problems("train", count=num_prompts, seed=0)
    prompts = [policy.encode(p.messages) for p in problems for _ in range(group_size)]
    sampler = LocalSampler(policy.model, end_ids=policy.end_ids, pad_id=policy.pad_id)
    drawn = sampler.sample(prompts, SamplingParams(), torch.Generator().manual_seed(0))
    rollouts = [
        TrainRollout(
            rollout_id=str(index),
            group=index // group_size,
            prompt_ids=prompt,
            response_ids=generation.response_ids.tolist(),
            behaviour_logprobs=generation.logprobs,
            reward=float(index % 2),
        )
        for index, (prompt, generation) in enumerate(zip(prompts, drawn, strict=True))
    ]
    return make_batches(rollouts, token_budget=TOKEN_BUDGET)


def one_step(policy: Policy, batches: list[TrainBatch], trunk: Trunk) -> None:
    """An optimiser step too small to change what the next round does."""
    learner = Learner(policy.model, OptimiserConfig(lr=1e-12), trunk=trunk)
    learner.step(batches, GRPO())


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=64, help="of a step")
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="for all rounds of a group size"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    policy = Policy(STUDENT_DIR)
    described = machine()
    result = {
        "machine": described
        | {
            "threads": options.threads,
            "torch": torch.__version__,
            "other work beside it": described["load before"] >= described["cores"] / 2,
        },
        "rollouts of a step": options.rollouts,
        **{f"groups of {size}": measure(policy, options, size) for size in (4, 8)},
    }
    text = json.dumps(result, indent=1)
    print(text)
    options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
