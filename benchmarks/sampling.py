"""Responses a second of the local sampler, with contexts shared and with a copy for every row.

    python benchmarks/sampling.py            # writes benchmarks/results/sampling.json

The shipped student answers a few prompts many times, as it does in training. Both arms are the same
sampler with the same random numbers; in one of them every response has its own copy of its prompt's
keys and values, as if each prompt had one response. They take turns, as many rounds as fit into
`--seconds`, and ratios are medians over rounds. On a busy machine CPU time says more about them
than the wall clock.
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

from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.sampling import local as sampling
from preceptor_trainer.sampling.decode_cache import DecodeCache
from preceptor_trainer.sampling.local import LocalSampler
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.student import STUDENT_DIR
from preceptor_trainer.tasks.programming_by_example.problems import sample_problems

RESULT = Path(__file__).parent / "results" / "sampling.json"


class CopyForEveryRow(DecodeCache):
    """Keys and values of a context as often as it has responses."""

    def branch(self, context_of_B: torch.Tensor) -> None:
        """Every row continues a context of its own."""
        self._take_contexts(context_of_B)
        super().branch(torch.arange(len(context_of_B)))


ARMS: dict[str, type[DecodeCache]] = {"shared": DecodeCache, "copied": CopyForEveryRow}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Rounds of both arms, after a short one that warms up."""
    torch.set_num_threads(options.threads)
    policy = Policy(STUDENT_DIR)
    sampler = LocalSampler(policy.model, end_ids=policy.end_ids, pad_id=policy.pad_id)
    problems = sample_problems("train", count=options.prompts, seed=0)
    prompts = [policy.encode(problem.messages) for problem in problems]
    asked = [ids for ids in prompts for _ in range(options.responses)]
    for arm in ARMS:
        one_round(sampler, prompts, arm)
    rounds = {arm: partial(one_round, sampler, asked, arm) for arm in ARMS}
    walls, cpus = in_turns(rounds, options.seconds)
    return {
        "prompt tokens": [len(ids) for ids in prompts],
        **{f"{arm}, responses/s": round(len(asked) / middle(walls, arm), 1) for arm in ARMS},
        "times as many by wall-clock": times_as_long(walls, "copied", "shared"),
        "times as many by CPU time": times_as_long(cpus, "copied", "shared"),
        "wall-clock seconds of rounds": walls,
        "CPU seconds of rounds": cpus,
    }


def one_round(sampler: LocalSampler, prompts: list[list[int]], arm: str) -> None:
    """One response to each prompt."""
    sampling.DecodeCache = ARMS[arm]
    sampler.sample(prompts, SamplingParams(), torch.Generator().manual_seed(0))


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--responses", type=int, default=128, help="to each prompt")
    parser.add_argument("--seconds", type=float, default=40.0, help="for all rounds")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    described = machine()
    result = {
        "machine": described
        | {
            "threads": options.threads,
            "torch": torch.__version__,
            "other work beside it": described["load before"] >= described["cores"] / 2,
        },
        "asked": {"prompts": options.prompts, "responses to each": options.responses},
        "figures": measure(options),
    }
    text = json.dumps(result, indent=1)
    print(text)
    options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
