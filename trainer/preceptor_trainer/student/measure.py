"""Measures the student, and the effect of feedback on it:
`python -m preceptor_trainer.student.measure --model DIR --out FILE.json`.

On held-out problems: pass@1 and pass@8 (unbiased, Chen et al. 2021, arXiv 2107.03374); then, on the
problems whose first attempt failed, the success of a fresh sample without feedback, with the
feedback text of that failed attempt alone, and with a demonstration. Ratios are of the means, with
intervals from a paired bootstrap over problems.
"""

# pyright: reportUnknownMemberType=false
# (transformers has incomplete types)
from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from math import comb
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import numpy.typing as npt
import torch
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer

from preceptor_clients.contract.execution import KIND, feedback_text
from preceptor_clients.sdk.templates import COMPACT
from preceptor_trainer.sampling.local import LocalSampler
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.student import STUDENT_DIR
from preceptor_trainer.student.architecture import prompt_ids
from preceptor_trainer.student.corpus import CorpusItem
from preceptor_trainer.tasks.programming_by_example.behaviour import Split
from preceptor_trainer.tasks.programming_by_example.problems import (
    Problem,
    evaluate,
    sample_problems,
)

NUM_BOOTSTRAP = 2000


def measure(
    folder: Path, *, num_problems: int, num_samples: int, seed: int, split: Split = "held_out"
) -> dict[str, Any]:
    """Returns pass@k and the effect of feedback with 95 % intervals, all as shares of 1."""
    answerer = Answerer(folder, seed)
    problems = sample_problems(split, count=num_problems, seed=seed)
    plain = [problem.messages for problem in problems]
    texts_PN = answerer.answer(plain, num_samples)
    solved_PN = _solved(texts_PN, problems)
    result: dict[str, Any] = {
        f"pass@{k}": interval(pass_at_k(solved_PN, k)) for k in (1, 8) if k <= num_samples
    }
    failed = [index for index in range(num_problems) if not solved_PN[index, 0]]
    result["failed_first_attempts"] = len(failed)
    kinds = {
        "trace": [_with_trace(problems[i], texts_PN[i][0]) for i in failed],
        "demonstration": [_with_demonstration(problems[i]) for i in failed],
    }
    asked = [problems[i] for i in failed]
    fresh_F = solved_PN[failed, 1:].mean(1)
    result["fresh"] = interval(fresh_F)
    for kind, chats in kinds.items():
        with_feedback_F = _solved(answerer.answer(chats, num_samples), asked).mean(1)
        result[kind] = interval(with_feedback_F)
        result[f"{kind}_ratio"] = ratio_interval(with_feedback_F, fresh_F)
    return result | {"problems": num_problems, "samples": num_samples, "seed": seed, "split": split}


class Answerer:
    """Samples the student's answers to chats."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._tokenizer: Any = cast(Any, AutoTokenizer).from_pretrained(folder)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._sampler = LocalSampler(
            model, end_ids={self._tokenizer.eos_token_id}, pad_id=self._tokenizer.pad_token_id
        )
        self._generator = torch.Generator().manual_seed(seed)

    def answer(self, chats: Sequence[Any], num_samples: int) -> list[list[str]]:
        """`num_samples` response texts for each chat."""
        prompts: list[list[int]] = []
        for chat in chats:
            prompts += [prompt_ids(self._tokenizer, chat)] * num_samples
        drawn = self._sampler.sample(prompts, SamplingParams(), self._generator)
        texts = [self._text(generation.response_ids) for generation in drawn]
        return [texts[i : i + num_samples] for i in range(0, len(texts), num_samples)]

    def _text(self, response_ids: npt.NDArray[np.int32]) -> str:
        return self._tokenizer.decode(response_ids.tolist(), skip_special_tokens=True)


def _solved(texts_PN: list[list[str]], problems: list[Problem]) -> npt.NDArray[np.float64]:
    return np.array(
        [
            [float(evaluate(text, problem).solved) for text in texts]
            for texts, problem in zip(texts_PN, problems, strict=True)
        ]
    )


def _with_trace(problem: Problem, attempt: str) -> Any:
    text = feedback_text(evaluate(attempt, problem))
    return COMPACT.render(problem.messages, [CorpusItem(kind=KIND, text=text)])


def _with_demonstration(problem: Problem) -> Any:
    right = [t for t in problem.behaviour.texts if evaluate(t, problem).solved]
    item = CorpusItem(kind="demonstration", text=right[min(1, len(right) - 1)])
    return COMPACT.render(problem.messages, [item])


def pass_at_k(solved_PN: npt.NDArray[np.float64], k: int) -> npt.NDArray[np.float64]:
    """The unbiased estimate per problem: 1 - C(n - c, k) / C(n, k)."""
    num_samples = solved_PN.shape[1]
    return np.array(
        [1 - comb(num_samples - int(c), k) / comb(num_samples, k) for c in solved_PN.sum(1)]
    )


def interval(values_P: npt.NDArray[np.float64]) -> dict[str, float]:
    """Mean over problems with a 95 % bootstrap interval."""
    return _summary(values_P.mean(), values_P[_resamples(len(values_P))].mean(1))


def ratio_interval(
    above_P: npt.NDArray[np.float64], below_P: npt.NDArray[np.float64]
) -> dict[str, float]:
    """Ratio of the means with a 95 % interval, problems resampled in pairs."""
    rows = _resamples(len(above_P))
    ratios = above_P[rows].mean(1) / np.maximum(below_P[rows].mean(1), 1e-9)
    return _summary(above_P.mean() / max(below_P.mean(), 1e-9), ratios)


def _resamples(size: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(0).integers(size, size=(NUM_BOOTSTRAP, size))


def _summary(mean: float, draws: npt.NDArray[np.float64]) -> dict[str, float]:
    low, high = np.quantile(draws, [0.025, 0.975])
    return {
        "mean": round(float(mean), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


def main(
    model: Annotated[Path, typer.Option(help="Folder of the model.")] = STUDENT_DIR,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    problems: int = 200,
    samples: int = 16,
    seed: int = 0,
    split: str = "held_out",
) -> None:
    """Measures a student."""
    result = measure(model, num_problems=problems, num_samples=samples, seed=seed, split=split)  # type: ignore[arg-type] # typer has no Literal
    weights = (model / "model.safetensors").read_bytes()
    result["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    text = json.dumps(result, indent=2)
    sys.stdout.write(text + "\n")
    if out is not None:
        out.write_text(text + "\n")


if __name__ == "__main__":
    typer.run(main)
