"""The quickstart's world as a run file with rows, so that another trainer can train on it.

    write_world(Path("runs/world"), seed=0)   # run.toml, train.jsonl, held_out.jsonl

The rows of a step are the problems that `preceptor quickstart --seed SEED` draws for it, in their
order; student, batch, rates, held-out problems and what the teacher sees are the recipe's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from preceptor_clients.kit.files import write_whole
from preceptor_trainer.recipes.quickstart import TYPICAL_LENGTH, quickstart
from preceptor_trainer.tasks.programming_by_example.problems import Problem

METHOD_SETTINGS: Final = {"distil": [f"objective.options.length_constant={TYPICAL_LENGTH}"]}
"""Keys of the file by objective: what the recipe sets and other objectives do not have."""
_FILE: Final = """\
# The quickstart's student learns to program by example: `preceptor quickstart` as a file.

[data]
train = "train.jsonl"
eval = "held_out.jsonl"
shuffle = false            # rows in the order in which the quickstart draws its problems

[feedback]
use = "executor"

[rollout]
n = {n}
max_tokens = {max_tokens}

[objective]
use = "distil"

[teacher]
demonstrations = false
own_solution = true

[optim]
lr = {lr}
warmup_steps = {warmup_steps}
decay = true
prompts_per_step = {prompts_per_step}
tokens_per_microbatch = {tokens}

[run]
name = "quickstart"
steps = {steps}
eval_samples = {num_samples}
eval_ks = [1, 8]
"""


def write_world(folder: Path, seed: int, steps: int = 40) -> Path:
    """Writes the files of one seed, unless they are there; returns the run file."""
    path = folder / "run.toml"
    if path.exists():
        return path
    config = quickstart(seed=seed, steps=steps)
    assert config.evaluation is not None
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [config.problems(step) for step in range(steps)]
    _write_rows(folder / "train.jsonl", (p for problems in drawn for p in problems))
    _write_rows(folder / "held_out.jsonl", config.evaluation.problems)
    text = _FILE.format(
        n=config.rollouts_per_problem,
        max_tokens=config.sampling.max_new_tokens,
        lr=config.optimiser.lr,
        warmup_steps=config.optimiser.warmup_steps,
        prompts_per_step=len(drawn[0]),
        tokens=config.token_budget,
        steps=steps,
        num_samples=config.evaluation.num_samples,
    )
    write_whole(path, text)  # last: where it is, the rows are
    return path


def _write_rows(path: Path, problems: Iterable[Any]) -> None:
    write_whole(path, "".join(json.dumps(_row(problem)) + "\n" for problem in problems))


def _row(problem: Problem) -> dict[str, Any]:
    cases = problem.payload
    return {
        "id": problem.id,
        "prompt": problem.messages[-1]["content"],
        "shown": cases["shown"],
        "hidden": cases["hidden"],
    }
