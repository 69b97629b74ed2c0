"""A tiny random policy as files, and queries to ask about it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from preceptor_clients.contract.fingerprint import tokenizer_fingerprint
from preceptor_clients.contract.schemas import (
    FeedbackItem,
    Message,
    PrefixQuery,
    Prompt,
    WeightManifest,
)
from preceptor_clients.sdk.adapters import AdapterConfig, tensor_names
from preceptor_services.experts.self_teacher import SelfTeacher
from preceptor_trainer.learner.lora import AdapterFiles
from preceptor_trainer.learner.policy import WeightFolder
from preceptor_trainer.student.architecture import make_tokenizer

MAX_POSITIONS = 192


@dataclass(frozen=True, kw_only=True)
class TinyPolicy:
    """A folder as the trainer ships it, and versions of its weights."""

    folder: Path
    weights_root: Path
    vocab_fingerprint: str

    def model(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()

    def publish(
        self,
        step: int,
        *,
        lineage: str = "l0",
        parent: str | None = None,
        checkpoint: bool = False,
    ) -> WeightManifest:
        """Weights that differ at every step, written as the trainer writes them."""
        folder = self.weights_root / "p" / lineage / str(step)
        folder.mkdir(parents=True)
        generator = torch.Generator().manual_seed(step)
        tensors = {
            name: p.detach() + 0.05 * torch.randn(p.shape, generator=generator)
            for name, p in self.model().named_parameters()
        }
        save_file(tensors, folder / "model.safetensors")
        content = (folder / "model.safetensors").read_bytes()
        return WeightManifest(
            version=f"p/{lineage}/{step}",
            parent=parent,
            uri=folder.as_uri(),
            files={"model.safetensors": hashlib.sha256(content).hexdigest()},
            vocab_fingerprint=self.vocab_fingerprint,
            checkpoint=checkpoint,
        )

    def publish_adapter(self, step: int, *, base: str) -> WeightManifest:
        """An adapter of one layer, written as the trainer writes it."""
        generator = torch.Generator().manual_seed(step)
        config = AdapterConfig(r=2, lora_alpha=4.0)
        a_RI, b_OR = (torch.randn(*shape, generator=generator) for shape in ((2, 32), (64, 2)))
        names = tensor_names("model.layers.1.mlp.gate_proj")
        adapter = AdapterFiles(tensors=dict(zip(names, (a_RI, b_OR), strict=True)), config=config)
        folder = WeightFolder(self.weights_root, "p", self.vocab_fingerprint)
        return folder.write_adapter(
            adapter, f"p/l0/{step}", base=base, parent=f"p/l0/{step - 1}", checkpoint=False
        )


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer) + 3,  # padded rows, as large models have
            hidden_size=32,
            num_hidden_layers=2,
            intermediate_size=64,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            max_position_embeddings=MAX_POSITIONS,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            initializer_range=0.3,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def policy(model_folder: Path, tmp_path: Path) -> TinyPolicy:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    (tmp_path / "weights").mkdir()
    return TinyPolicy(
        folder=folder,
        weights_root=tmp_path / "weights",
        vocab_fingerprint=tokenizer_fingerprint(make_tokenizer()),
    )


@pytest.fixture
def make_teacher(policy: TinyPolicy) -> Iterator[Callable[..., SelfTeacher]]:
    made: list[SelfTeacher] = []

    def make(**options: Any) -> SelfTeacher:
        options = {
            "model": str(policy.folder),
            "weights_roots": [str(policy.weights_root)],
            "threads": 1,
        } | options
        made.append(SelfTeacher(**options))
        return made[-1]

    yield make
    for teacher in made:
        teacher._torch.shutdown()


@pytest.fixture
def make_query(policy: TinyPolicy) -> Callable[..., PrefixQuery]:
    def make(response: str = "sorted(x)", text: str | None = "wrong", **fields: Any) -> PrefixQuery:
        feedback = () if text is None else (remark(text),)
        return PrefixQuery(
            **{
                "prompt": Prompt(messages=(Message(role="user", content="[3,1]->[1,3]"),)),
                "response_ids": [*response.encode(), 257],
                "vocab_fingerprint": policy.vocab_fingerprint,
                "feedback": feedback,
                "top_k": 16,
            }
            | fields
        )

    return make


def remark(text: str | None, **fields: Any) -> FeedbackItem:
    """What an executor found."""
    return FeedbackItem(
        **{"id": "fb-1", "kind": "execution", "text": text, "source": "executor", "version": "1"}
        | fields
    )
