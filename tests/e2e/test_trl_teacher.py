"""TRL's server-distillation trainer with an expert of ours as its teacher.

The trainer is TRL's own, unchanged, and so is its HTTP client; it believes that it talks to a vLLM
server. One guard of the client is answered for it: it asks whether vLLM is installed, which it
needs for moving weights and not for scores.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from preceptor_services.experts.larger_model import LargerModel
from preceptor_trainer.student import STUDENT_DIR

from .conftest import Running

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

K, STEPS = 8, 12
PROMPTS = [f"[{n},{n + 2},1]->[{n + 2}]" for n in range(1, 9)]


@dataclass(frozen=True)
class Address:
    """Where the teacher is, as a client without keys wants to be told."""

    url: str


@pytest.fixture
def teacher(running: Running) -> Iterator[Address]:
    """The shipped student's weights as a larger model, behind gateway, broker and dispatcher."""
    larger = LargerModel(name="larger", model=str(STUDENT_DIR), dtype="float32", threads=1)
    with running.expert("larger", larger):
        host = running.deployment.gateway_url.removeprefix("http://")
        yield Address(f"http://any:{running.deployment.key}@{host}/vllm/larger")


@pytest.fixture
def trl(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """TRL's module of the trainer; it and its dependencies warn of what they will change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental import server_distillation
        from trl.generation import vllm_client

        monkeypatch.setattr(vllm_client, "is_vllm_available", lambda: True)
        yield server_distillation


def model_of(noise: float = 0.0) -> Any:
    model = AutoModelForCausalLM.from_pretrained(STUDENT_DIR, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += noise * p.std() * torch.randn(p.shape, generator=generator)
    return model.eval()


def make_trainer(trl: Any, student: Any, teacher: Address, folder: Path) -> Any:
    from datasets import Dataset

    args = trl.ServerDistillationConfig(
        output_dir=str(folder),
        teacher_model_server_url=teacher.url,
        beta=0.0,
        loss_top_k=K,
        max_steps=STEPS,
        per_device_train_batch_size=8,
        max_completion_length=16,
        learning_rate=5e-4,
        lr_scheduler_type="constant",
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        report_to="none",
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        seed=0,
    )
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in PROMPTS]
    return trl.ServerDistillationTrainer(
        model=student,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(STUDENT_DIR),
    )


def logprobs_TV(model: Any, ids: list[int], start: int) -> torch.Tensor:
    """Log-probs at the completion's positions, by the model's own library."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].log_softmax(-1)[start - 1 : -1]


def mean_kl(q: Any, p: Any, completions: list[tuple[list[int], int]]) -> float:
    """Mean KL(q, p) over the positions of all completions."""
    rows = [(logprobs_TV(q, *c), logprobs_TV(p, *c)) for c in completions]
    return float(torch.cat([(a.exp() * (a - b)).sum(-1) for a, b in rows]).mean())


def test_trl_distils_from_an_expert_as_if_it_were_a_vllm_server(
    trl: Any, teacher: Address, tmp_path: Path
) -> None:
    student, untrained, reference = model_of(noise=0.3), model_of(noise=0.3), model_of()
    trainer = make_trainer(trl, student, teacher, tmp_path / "trl")
    asked: list[tuple[list[int], int]] = []
    answered: list[tuple[np.ndarray, np.ndarray]] = []
    ask = trainer.teacher_client.get_sequence_logprobs

    def noted(**question: Any) -> dict[str, Any]:
        answer = ask(**question)
        asked.extend(zip(question["sequences"], question["prompt_lengths"], strict=True))
        pairs = zip(answer["logprobs"], answer["actual_logprobs"], strict=True)
        answered.extend((np.array(best), np.array(own)[:, 0]) for best, own in pairs)
        return answer

    trainer.teacher_client.get_sequence_logprobs = noted
    trainer.train()

    assert trainer.teacher_client.model == "larger"
    assert len(asked) == STEPS * len(PROMPTS)
    for (ids, start), (best_TK, own_T) in zip(asked, answered, strict=True):
        rows = logprobs_TV(reference, ids, start)
        own = rows.gather(1, torch.tensor(ids[start:])[:, None])[:, 0]
        np.testing.assert_allclose(best_TK, rows.topk(K).values.numpy(), atol=2e-3)
        np.testing.assert_allclose(own_T, own.numpy(), atol=2e-3)
    student.eval()
    assert mean_kl(reference, student, asked) < 0.8 * mean_kl(reference, untrained, asked)
