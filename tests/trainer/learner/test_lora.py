"""An adapter is trained, the model's own weights stay, and what is published is one plain model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from preceptor_trainer.kit.placement import CPU
from preceptor_trainer.learner.learner import Learner, OptimiserConfig
from preceptor_trainer.learner.lora import Lora, add_adapter, load_peft
from preceptor_trainer.learner.passes import Passes
from preceptor_trainer.learner.policy import Policy, WeightFolder
from preceptor_trainer.model.batch import TrainBatch, collate, make_batches
from preceptor_trainer.model.heads.dense import dense_head
from preceptor_trainer.model.heads.lean import LeanHead
from preceptor_trainer.model.statistics import Needs
from preceptor_trainer.model.trunk import padded
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.run.export import CannotExport, export, loadable
from preceptor_trainer.run.standing import Lineage, remember

from ...models.tiny import tiny_model

Batches = list[TrainBatch]
LORA = Lora(rank=4, alpha=8.0)


@pytest.fixture
def batches(make_labelled: Callable[..., Any]) -> Batches:
    draw = np.random.default_rng(0)
    rows = [
        make_labelled(str(i), draw.integers(0, 3, 3 + i).tolist(), seed=i, group=i // 2)
        for i in range(4)
    ]
    return make_batches(rows, token_budget=1000)


def learner_of(policy: Policy, lora: Lora = LORA, *, lean: bool = False) -> Learner:
    return Learner(
        policy.model,
        OptimiserConfig(lr=0.02, max_grad_norm=None),
        trunk=policy.trunk,
        head=LeanHead(chunk_bytes=512) if lean else dense_head,
        adapter=add_adapter(policy.model, lora, 0),
    )


def test_only_the_adapter_is_trained_and_it_begins_as_nothing(
    tmp_path: Path, batches: Batches
) -> None:
    folder = tiny_model("qwen3", tmp_path / "model")
    plain, policy = Policy(folder), Policy(folder)
    wanted = Learner(plain.model, OptimiserConfig(lr=0.02)).measure(batches, DistIL()).loss
    learner = learner_of(policy)
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}

    first, second = (learner.step(batches, DistIL()).loss for _ in range(2))

    changed = {n for n, p in policy.model.named_parameters() if not torch.equal(before[n], p)}
    assert first == pytest.approx(wanted, rel=1e-6)
    assert second < first
    assert changed == {name for name in before if ".lora_" in name}
    moments = learner.state_dict()["optimiser"]["state"]
    assert len(moments) == len(changed)


def test_the_lean_head_trains_an_adapter_as_the_dense_one(tmp_path: Path, batches: Batches) -> None:
    folder = tiny_model("qwen3", tmp_path / "model")
    lean, dense = learner_of(Policy(folder), lean=True), learner_of(Policy(folder))

    found, wanted = (one.step(batches, DistIL()) for one in (lean, dense))

    assert found.loss == pytest.approx(wanted.loss, rel=1e-5)
    assert found.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-5)


@pytest.mark.parametrize("name", ["smollm2", "llama"])
def test_an_exported_adapter_is_a_plain_model_with_the_trainers_log_probs(
    name: str, tmp_path: Path, batches: Batches
) -> None:
    policy = Policy(tiny_model(name, tmp_path / "model"))
    learner = learner_of(policy)
    learner.step(batches, DistIL())
    config: Any = policy.model.config
    folder = WeightFolder(
        tmp_path / "run" / "weights", "p", "0" * 64, source=policy.folder, config=config
    )
    folder.write(learner.weights(), "p/l0/1", parent=None, checkpoint=True)
    remember(tmp_path / "run", Lineage(name="l0", parent=None, from_step=0, steps=1))

    export(str(tmp_path / "run"), tmp_path / "out")

    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert config.tie_word_embeddings == (name == "smollm2")
    ids = torch.tensor([[5, 9, 40, 7, 3, 60]])
    with torch.no_grad():
        wanted, found = (m(input_ids=ids).logits.log_softmax(-1) for m in (policy.model, exported))
        begun = Policy(policy.folder).model(input_ids=ids).logits.log_softmax(-1)
    # x (W + B A) and x W + (x B) A round differently, the more the larger the log-prob.
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-6)
    assert (found - begun).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["smollm2", "qwen3"])
def test_a_version_that_is_an_adapter_is_small_and_read_as_the_merged_model(
    name: str, tmp_path: Path, batches: Batches
) -> None:
    policy = Policy(tiny_model(name, tmp_path / "model"))
    learner = learner_of(policy)
    folder = WeightFolder(
        tmp_path / "weights", "p", "0" * 64, source=policy.folder, config=policy.model.config
    )
    base = folder.write(learner.weights(), "p/l0/0", parent=None, checkpoint=True)
    learner.step(batches, DistIL())
    adapter = learner.adapter()
    assert adapter is not None

    written = folder.write_adapter(
        adapter, "p/l0/1", base=base.version, parent=base.version, checkpoint=False
    )

    found, wanted = folder.read("p/l0/1"), learner.weights()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], weight) for name, weight in wanted.items())
    numbers = sum(tensor.numel() for tensor in adapter.tensors.values())
    assert written.num_bytes is not None
    assert 4 * numbers < written.num_bytes < 4 * numbers + 10_000


# peft 0.21 asks transformers for a name that will go.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_an_exported_adapter_version_is_a_plain_model_and_peft_reads_its_folder(
    tmp_path: Path, batches: Batches
) -> None:
    policy = Policy(tiny_model("smollm2", tmp_path / "model"))
    learner = learner_of(policy)
    folder = WeightFolder(
        tmp_path / "weights", "p", "0" * 64, source=policy.folder, config=policy.model.config
    )
    first = learner.adapter()
    folder.write(learner.weights(), "p/l0/0", parent=None, checkpoint=True, first_adapter=first)
    learner.step(batches, DistIL())
    adapter = learner.adapter()
    assert adapter is not None
    folder.write_adapter(adapter, "p/l0/1", base="p/l0/0", parent="p/l0/0", checkpoint=True)
    remember(tmp_path, Lineage(name="l0", parent=None, from_step=0, steps=1))

    export(str(tmp_path), tmp_path / "out")

    plain = AutoModelForCausalLM.from_pretrained(policy.folder).eval()
    by_peft = load_peft().PeftModel.from_pretrained(plain, tmp_path / "weights/p/l0/1").eval()
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.tensor([[5, 9, 40, 7, 3, 60]])
    with torch.no_grad():
        wanted, *found = (
            model(input_ids=ids).logits.log_softmax(-1)
            for model in (policy.model, exported, by_peft)
        )
    for logprobs in found:
        torch.testing.assert_close(logprobs, wanted, atol=1e-5, rtol=1e-6)
    assert loadable(str(tmp_path), tmp_path) == tmp_path / "merged"
    assert loadable(f"{tmp_path}@0", tmp_path) == tmp_path / "weights/p/l0/0"
    export(f"{tmp_path}@0", tmp_path / "first")
    assert not [path for path in (tmp_path / "first").iterdir() if not path.is_file()]
    (tmp_path / "weights/p/l0/0/model.safetensors").unlink()
    with pytest.raises(CannotExport, match=r"l0/1 is an adapter of .*l0/0, which is not there"):
        export(str(tmp_path), tmp_path / "again")


def test_a_restored_adapter_goes_on_identically(tmp_path: Path, batches: Batches) -> None:
    folder = tiny_model("qwen3", tmp_path / "model")
    lora = Lora(rank=4, alpha=8.0, dropout=0.2)
    learner, restored = learner_of(Policy(folder), lora), learner_of(Policy(folder), lora)
    learner.step(batches, DistIL())
    torch.save(learner.state_dict(), tmp_path / "trainer.pt")

    restored.restore(learner.weights(), torch.load(tmp_path / "trainer.pt", weights_only=True))

    expected = [learner.step(batches, DistIL()).loss for _ in range(2)]
    assert [restored.step(batches, DistIL()).loss for _ in range(2)] == expected


def test_an_adapter_on_another_model_is_refused(tmp_path: Path, batches: Batches) -> None:
    learner = learner_of(Policy(tiny_model("qwen3", tmp_path / "model")))
    learner.step(batches, DistIL())
    other = Policy(tiny_model("qwen3", tmp_path / "other"))
    with torch.no_grad():
        next(other.model.parameters()).add_(0.1)

    with pytest.raises(ValueError, match="not the one that the run was begun with"):
        learner_of(other).restore(learner.weights(), learner.state_dict())


def test_both_passes_of_a_step_drop_the_same(tmp_path: Path, batches: Batches) -> None:
    policy = Policy(tiny_model("qwen3", tmp_path / "model"))
    adapter = add_adapter(policy.model, Lora(rank=4, dropout=0.5), 0)
    for name, parameter in policy.model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter)
    passes = Passes(policy.model, padded, dense_head, CPU, adapter)

    def drawn(step: int | None) -> torch.Tensor:
        return passes.statistics(batches[0], Needs(), step).sampled_logprobs_BT.detach()

    assert torch.equal(drawn(3), drawn(3))
    assert not torch.allclose(drawn(3), drawn(4))
    assert torch.equal(drawn(None), drawn(None))
    assert not torch.allclose(drawn(3), drawn(None))


@pytest.mark.parametrize(
    ("target", "words"),
    [("lm_head", "is an embedding"), ("embed_tokens", "is an embedding"), ("q", "no layer 'q'")],
)
def test_a_target_that_cannot_be_is_refused_by_name(
    tmp_path: Path, target: str, words: str
) -> None:
    policy = Policy(tiny_model("smollm2", tmp_path / "model"))

    with pytest.raises(ValueError, match=words):
        add_adapter(policy.model, Lora(targets=(target,)), 0)


@pytest.mark.parametrize(
    "fields", [{"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}, {"targets": ()}], ids=str
)
def test_settings_that_cannot_be_are_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        Lora(**fields)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)

    with pytest.raises(ValueError, match=r"pip install 'preceptor\[lora\]'"):
        Lora()


def test_a_batch_of_one_row_without_a_teacher_leaves_the_adapter_alone(
    tmp_path: Path, make_rollout: Callable[..., Any]
) -> None:
    learner = learner_of(Policy(tiny_model("qwen3", tmp_path / "model")))
    before = learner.weights()

    learner.step([collate([make_rollout()])], DistIL())

    assert all(torch.equal(before[name], weight) for name, weight in learner.weights().items())
