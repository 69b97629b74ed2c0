"""SmolLM2-135M-Instruct trains ten steps on what vLLM draws: live weights, honest log-probs.

`scripts/check-vllm .venv --real` runs it, for some ten minutes on two cores.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from preceptor_clients.contract.generation import (
    GenerateAnswer,
    GenerateCall,
    GenerateQuery,
    Sampling,
)
from preceptor_clients.contract.schemas import Prompt, WantedWeights
from preceptor_clients.http.service import ServiceClient
from preceptor_trainer.learner.adapter_files import read_weights
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.model.weights import load_weights
from preceptor_trainer.run.watching.metrics_log import read_metrics

from .conftest import KEY, vllm_service

pytestmark = [pytest.mark.vllm, pytest.mark.e2e, pytest.mark.gauntlet]

STEPS = 10
_log = logging.getLogger(__name__)
RUN = """
model = {{ path = "{model}"{adapter} }}
data = {{ train = "rows.jsonl", eval = "held_out.jsonl" }}
feedback = {{ use = "judge.py:judge" }}
rollout = {{ n = 4, max_tokens = 16, sampler = {{ url = "{url}", key_file = "vllm.key" }} }}
optim = {{ prompts_per_step = 4, lr = {lr} }}
run = {{ steps = 10, eval_samples = 2, folder = "runs", name = "real" }}
objective = {{ use = "grpo" }}
"""
JUDGE = "def judge(row, response):\n    return sum(map(ord, response)) % 7 / 6\n"


@dataclass(frozen=True, kw_only=True)
class Case:
    """How vLLM computes and what the run trains."""

    dtype: str
    largest_gap: float
    """Nats a token, on average."""
    rounding: str = "nearest"
    adapter: str = ""
    lr: float = 2e-5


CASES = {
    "bfloat16": Case(dtype="bfloat16", rounding="stochastic", largest_gap=0.05),
    "float32": Case(dtype="float32", largest_gap=1e-3),
    "adapter": Case(dtype="float32", largest_gap=1e-3, adapter=", lora = { rank = 8 }", lr=1e-3),
}


@pytest.mark.parametrize("name", CASES)
async def test_ten_steps_are_drawn_by_vllm_with_the_weights_of_each(
    name: str, vllm_python: str, smollm2: Path, tmp_path: Path
) -> None:
    case, log = CASES[name], tmp_path / "vllm.log"
    (tmp_path / "vllm.key").write_text(KEY)
    options = {
        "model": str(smollm2),
        "dtype": case.dtype,
        "rounding": case.rounding,
        "max_context": "512",
    }
    with vllm_service(vllm_python, options, [tmp_path], tmp_path / "vllm.key", log) as url:
        _train(case, url, smollm2, tmp_path)
        run_dir = tmp_path / "runs" / "real"
        first, last = (f"real/l0/{step}" for step in (0, STEPS))
        drawn = {version: await _drawn(url, smollm2, version) for version in (first, last)}

    gaps = {
        (version, weights): _mean_gap(answers, smollm2, run_dir / "weights" / weights)
        for version, answers in drawn.items()
        for weights in (first, last)
    }
    steps = read_metrics(run_dir)
    _log.info("%s: gaps %s", name, gaps)
    _log.info("%s: signed gaps of steps %s", name, [step["behaviour_gap"] for step in steps])
    # Before the first push and after the last one, and not with each other's weights.
    assert max(gaps[first, first], gaps[last, last]) < case.largest_gap
    assert gaps[first, last] > 1.5 * gaps[first, first]
    assert gaps[last, first] > 1.5 * gaps[last, last]
    assert len(steps) == STEPS
    assert max(abs(step["behaviour_gap"]) for step in steps) < case.largest_gap
    evaluated = sorted(path.stem for path in (run_dir / "evaluations").glob("*.json"))
    assert evaluated == ["after", "before"]
    written = read_weights(run_dir / "weights" / first)
    whole = sum(tensor.nbytes for tensor in written.values())
    sizes = [step["published_bytes"] for step in steps]
    assert max(sizes) < 0.03 * whole if case.adapter else min(sizes) == whole


def _train(case: Case, url: str, model: Path, folder: Path) -> None:
    (folder / "run.toml").write_text(
        RUN.format(model=model, url=url, adapter=case.adapter, lr=case.lr)
    )
    (folder / "judge.py").write_text(JUDGE)
    for name, first, count in (("rows", 2, 16), ("held_out", 20, 3)):
        rows = [{"prompt": f"What is {i} times {i + 1}?"} for i in range(first, first + count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "preceptor_clients.cli", "train", "run.toml"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=3000, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def _drawn(url: str, model: Path, version: str) -> list[tuple[list[int], Any]]:
    """Prompts and what vLLM drew to them with one version of the weights."""
    policy = Policy(model)
    prompts = [policy.encode([{"role": "user", "content": f"Tell me of {x}."}]) for x in SUBJECTS]
    queries = tuple(
        GenerateQuery(
            prompt=Prompt(ids=np.array(ids, np.int32)),
            sampling=Sampling(max_new_tokens=48, seed=7),
            count=2,
            vocab_fingerprint=policy.vocab_fingerprint,
            weights=WantedWeights(mode="exact", version=version),
        )
        for ids in prompts
    )
    async with ServiceClient(url, KEY) as client:
        reply = await client.generate(GenerateCall(queries=queries), 1800)
    answers = [_answer(result.answer, version) for result in reply.results]
    return [
        (ids, one) for ids, answer in zip(prompts, answers, strict=True) for one in answer.responses
    ]


SUBJECTS = ("the sea", "bread", "a dog", "the moon", "trains", "rain")


def _answer(answer: GenerateAnswer | None, version: str) -> GenerateAnswer:
    assert answer is not None
    assert answer.weights_before == answer.weights_after == version
    return answer


def _mean_gap(answers: Sequence[tuple[list[int], Any]], model: Path, weights: Path) -> float:
    """Mean distance of vLLM's log-probs from those of a float32 pass with these weights."""
    policy = Policy(model)
    load_weights(policy.model, read_weights(weights))
    gaps: list[torch.Tensor] = []
    for prompt, one in answers:
        ids = one.response_ids.tolist()
        with torch.no_grad():
            logits_TV = policy.model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0]
        rows_TV = logits_TV[len(prompt) - 1 : -1].float().log_softmax(-1)
        own_T = rows_TV[torch.arange(len(ids)), torch.tensor(ids)]
        gaps.append((own_T - torch.from_numpy(np.array(one.logprobs_T))).abs())
    return float(torch.cat(gaps).mean())
